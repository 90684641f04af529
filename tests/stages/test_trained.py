"""Finding learners and teachers of a project, to learn new classes with them."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import datafree
from datafree import artifacts, devices
from datafree.cli import app
from datafree.config import BackboneConfig, EvaluationConfig
from datafree.errors import UserError
from datafree.evaluation.baselines import network_embedding
from datafree.evaluation.few_shot import episode_accuracies, episode_rows
from datafree.evaluation.intervals import mean_interval
from datafree.evaluation.readouts import Reader, heads_of
from datafree.evaluation.representations import weights_for
from datafree.evaluation.rows import baselines
from datafree.nas.networks import build
from datafree.predict.candidates import mean_accuracy
from datafree.predict.files import write_learner
from datafree.predict.model_card import as_markdown, model_card
from datafree.stages.files import trained
from datafree.stages.files.image_sets import read_image_set, write_image_set
from datafree.stages.files.learners import read_learner
from datafree.stages.files.teachers import read_teacher
from datafree.stages.files.trained import Limits
from datafree.zoo.backbones import Normalise, parameter_count
from datafree.zoo.networks import network_card

CELL = "|nor_conv_1x1~0|+|skip_connect~0|none~1|+|none~0|none~1|skip_connect~2|"


@pytest.fixture
def finished(project):
    """The tiny project after its evaluation."""
    project.outputs("few_shot")
    project.outputs("networks")
    return project


def images(size=16):
    return torch.randint(0, 256, (5, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arm", ["bell", "distillation", "maml"])
def test_a_learner_represents_images_as_the_evaluation_does(finished, arm):
    learner = trained.load_learner(arm, finished.root)
    outputs = finished.outputs("learner", arm, 0)
    backbone, normalise, heads, weights = read_learner(outputs["learner"], outputs["card"])
    reader = Reader.of(["joined"], None if heads is None else heads_of(heads), weights)
    embedding = network_embedding(backbone, normalise, reader, torch.device("cpu"), mirrored=False)
    with torch.no_grad():
        (expected,) = embedding(images()).values()
    torch.testing.assert_close(learner.represent(images()), expected)
    assert learner.card["seed"] == 0
    assert learner.card["sha256"] == artifacts.sha256(outputs["learner"])


def test_a_learner_knows_its_accuracy_and_recovered_images(finished):
    learner = trained.load_learner("bell", finished.root)
    (row,) = [row for row in artifacts.read_json(finished.outputs("few_shot")["results"])["rows"] if row["name"] == "bell"]
    measured = learner.card["accuracy"]
    assert measured["shots"]["1"] == {key: row["shots"]["1"][key] for key in ("mean", "interval", "n")}
    assert (measured["split"], measured["way"], measured["seeds"]) == ("test", 3, 2)
    files = [finished.outputs("invert", "five", teacher)["images"] for teacher in ("alpha", "beta", "gamma")]
    recovered = learner.represent(torch.cat([artifacts.read_tensors(file)["images"] for file in files]))
    assert len(learner.negatives) == min(len(recovered), trained.NEGATIVES)
    assert ((learner.negatives[:, None] - recovered).abs().amax(-1).amin(1) < 1e-2).all()


def test_mirrored_views_are_used_if_the_evaluation_used_them(finished, tmp_path):
    results = artifacts.read_json(finished.root / trained.RESULTS)
    assert results["mirrored"] is False
    try:
        artifacts.write_json(finished.root / trained.RESULTS, {**results, "mirrored": True})
        learner = trained.load_learner("bell", finished.root)
    finally:
        artifacts.write_json(finished.root / trained.RESULTS, results)
    torch.testing.assert_close(learner.represent(images()), learner.represent(images().flip(-1)))


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
def test_a_teacher_represents_images_as_the_evaluation_does(finished, name):
    learner = trained.load_teacher(name, finished.root)
    outputs = finished.outputs("teacher", name)
    teacher = read_teacher(outputs["weights"], outputs["card"])
    reader = Reader.of(["joined"], heads_of(teacher.network.head), weights_for(len(teacher.classes)))
    embedding = network_embedding(teacher.network.backbone, teacher.normalise, reader, torch.device("cpu"), mirrored=False)
    with torch.no_grad():
        (expected,) = embedding(images(learner.image_size)).values()
    torch.testing.assert_close(learner.represent(images(learner.image_size)), expected)
    assert learner.card["licence"] == "CC0"
    assert len(learner.negatives) > 0


@pytest.mark.parametrize("name", ["bell", "beta", "2 teachers"])
def test_a_network_in_a_file_of_its_own_represents_images_as_before(finished, tmp_path, name):
    learner = trained.load_learner(name, finished.root) if name == "bell" else trained.load_teacher(name, finished.root)
    write_learner(tmp_path / "l.safetensors", learner)
    read = trained.load_learner(tmp_path / "l.safetensors")
    assert torch.equal(read.represent(images()), learner.represent(images()))
    assert json.dumps(read.card, sort_keys=True) == json.dumps(dict(learner.card), sort_keys=True)


def test_a_learner_is_found_by_its_folder_and_by_its_file(finished):
    folder = finished.root / "artifacts/meta/distillation/seed4"
    by_folder, by_file = trained.load_learner(folder), trained.load_learner(folder / "learner.safetensors")
    assert by_folder.card["seed"] == by_file.card["seed"] == 4
    assert datafree.load_learner(folder).learner.card["arm"] == "distillation"


def rows_of(finished):
    return {(row["kind"], row["name"]): row for row in trained.compared(finished.root)}


def test_every_network_is_compared_on_the_validation_classes_as_it_is_used(finished):
    rows = rows_of(finished)
    assert {name for kind, name in rows if kind == "learner"} == {"bell", "distillation", "maml"}
    assert {name for kind, name in rows if kind == "teacher"} == {"alpha", "beta", "gamma"}
    assert {name for kind, name in rows if kind == "teachers"} == {"2 teachers", "3 teachers"}
    data = read_image_set(finished.root / "artifacts/data/validation.safetensors")
    config = finished.settings.evaluation
    for (kind, name), row in rows.items():
        learner = trained.load_learner(name, finished.root) if kind == "learner" else trained.load_teacher(name, finished.root)
        with devices.autocast(torch.device("cpu"), finished.plan.hardware.precision):
            values = learner.represent(data.images)
        for shot in config.shots:
            counts = {"way": config.way, "shot": shot, "query": config.query, "episodes": config.episodes}
            expected = mean_interval(episode_accuracies(values, episode_rows(data.labels, **counts, seed=0), shot))
            assert row["shots"][str(shot)] == pytest.approx(expected)
        assert row["parameters"] == sum(parameter_count(network.backbone) for network in learner.members)
        assert row["latency"] > 0


def test_teachers_side_by_side_are_the_most_accurate_ones_and_cost_what_they_cost_together(finished):
    rows = rows_of(finished)
    singles = [row for (kind, _), row in rows.items() if kind == "teacher"]
    assert rows["teachers", "2 teachers"]["members"] == [row["name"] for row in singles[:2]]
    whole = rows["teachers", "3 teachers"]
    for key in ("parameters", "macs", "latency"):
        assert whole[key] == pytest.approx(sum(row[key] for row in singles))


def test_the_best_network_is_the_most_accurate_one_within_the_limits(finished):
    rows = trained.compared(finished.root)
    means = [mean_accuracy(row) for row in rows]
    assert means == sorted(means, reverse=True)
    single = trained.best_network(Limits(), finished.root)
    assert mean_accuracy(single) == max(mean_accuracy(row) for row in rows if len(row["members"]) == 1)
    assert trained.best_network(Limits(parameters=10**9), finished.root) == rows[0]
    for key in ("parameters", "macs", "latency"):
        least = min(row[key] for row in rows)
        assert trained.best_network(Limits(**{key: least}), finished.root)[key] == least
        with pytest.raises(UserError, match=f"--max-{key}: got .*; the least of a network of this project is"):
            trained.best_network(Limits(**{key: least / 2}), finished.root)
    few, fast = min(rows, key=lambda row: row["parameters"]), min(rows, key=lambda row: row["macs"])
    assert few["macs"] > fast["macs"]
    with pytest.raises(UserError, match="no network of this project is within all limits"):
        trained.best_network(Limits(parameters=few["parameters"], macs=fast["macs"]), finished.root)


def test_too_few_validation_images_are_a_reason_for_no_choice(finished, tmp_path):
    data = read_image_set(finished.root / "artifacts/data/validation.safetensors")
    folder = "artifacts/evaluation/networks"
    write_image_set(tmp_path / "two.safetensors", data.of_classes([0, 1]))
    job = finished.job_of("networks")
    outputs = {name: str(tmp_path / folder / Path(path).name) for name, path in job.outputs.items()}
    finished.run(dataclasses.replace(job, inputs={**job.inputs, "images": str(tmp_path / "two.safetensors")}, outputs=outputs))
    with pytest.raises(UserError, match="this project were not compared: evaluation.way: got 3; allowed: at most 2, the classes"):
        trained.best_network(Limits(), tmp_path)
    artifacts.write_json(tmp_path / folder / "times.json", {"milliseconds": {}})
    rows = artifacts.read_json(finished.root / folder / "networks.json")
    artifacts.write_json(tmp_path / folder / "networks.json", rows)
    with pytest.raises(UserError, match="networks.json: does not belong to times.json"):
        trained.compared(tmp_path)
    for damaged in (5, [5], [{"name": "a"}]):
        artifacts.write_json(tmp_path / folder / "networks.json", {**rows, "rows": damaged})
        with pytest.raises(UserError, match="networks.json: its rows are damaged; delete it and run again"):
            trained.load_teacher("alpha", tmp_path)


def test_a_group_of_teachers_is_the_row_of_all_teachers_of_the_evaluation(finished):
    group = trained.load_teacher("3 teachers", finished.root)
    names = [member["teacher"] for member in group.card["members"]]
    teachers = [read_teacher(*finished.outputs("teacher", name).values()) for name in names]
    (model,) = [m for m in baselines(teachers, [3, 16, 16], EvaluationConfig(), 0, torch.device("cpu")) if m.name == "all teachers"]
    data = read_image_set(finished.root / "artifacts/data/test.safetensors")
    rows = episode_rows(data.labels, way=3, shot=2, query=3, episodes=20, seed=0)
    with torch.no_grad():
        expected = episode_accuracies(model.embedding(data.images)["joined"], rows, 2, model.classify)
    assert episode_accuracies(group.represent(data.images), rows, 2) == expected


def test_a_learner_without_recovered_images_rejects_nothing(finished, monkeypatch, tmp_path):
    monkeypatch.setattr(trained, "INVERSION", str(tmp_path))
    assert trained.load_learner("bell", finished.root).negatives.shape[0] == 0


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (
            lambda root: trained.load_learner("unknown", root),
            "unknown is no learner's file and no trained arm .* bell, distillation, maml",
        ),
        (lambda root: trained.load_learner("../meta/bell", root), "is no learner's file"),
        (lambda root: trained.load_learner("", root), "is no learner's file"),
        (lambda root: trained.load_learner(root / "none.safetensors", root), "none.safetensors: no such file"),
        (
            lambda root: trained.load_teacher("unknown", root),
            "unknown is no teacher of this project; allowed: alpha, beta, gamma",
        ),
        (lambda root: trained.load_teacher("../zoo/alpha", root), "is no teacher of this project"),
        (lambda root: trained.best_network(Limits(), root / "artifacts"), "found no comparison of the networks of a project"),
    ],
)
def test_what_is_not_there_gives_one_line(finished, load, message):
    with pytest.raises(UserError, match=message):
        load(finished.root)


def test_of_many_names_the_first_are_listed():
    assert trained._listed([str(number) for number in range(25)]).endswith("19, and 5 more")


def test_the_model_card_names_every_teacher_with_its_licence(finished):
    described = model_card(trained.load_learner("bell", finished.root).card)
    assert [row["name"] for row in described["teachers"]] == ["alpha", "beta", "gamma"]
    assert described["licences"] == {"CC0": 3}
    assert described["accuracy"]["split"] == "test"
    assert described["network"]["macs"] > 0
    assert "3-way, on the validation classes" in as_markdown(model_card(trained.load_teacher("beta", finished.root).card))


def test_the_model_card_of_a_group_names_its_members(finished):
    described = model_card(trained.load_teacher("2 teachers", finished.root).card)
    assert sorted(row["name"] for row in described["teachers"]) == sorted(rows_of(finished)["teachers", "2 teachers"]["members"])
    assert described["kind"] == "group of teachers side by side, as they are"
    text = as_markdown(described)
    assert "- architecture: conv4\\_strided, width 4 (2 side by side)" in text
    assert "on the validation classes" in text


def test_the_network_of_a_search_learns_new_classes_too(tmp_path):
    config = BackboneConfig("nasbench201", 4, CELL, cells=1)
    backbone = build(config, 3, 16, 0)
    folder = tmp_path / "artifacts/nas/spos/retrained"
    artifacts.write_tensors(folder / "network.safetensors", backbone.state_dict())
    artifacts.write_json(folder / "card.json", network_card(backbone, config, [3, 16, 16], [0.5] * 3, [0.25] * 3))
    learner = trained.load_learner("spos", tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(learner.represent(images()), backbone.eval()(Normalise([0.5] * 3, [0.25] * 3)(images())))
    write_learner(tmp_path / "l.safetensors", learner)
    assert torch.equal(trained.load_learner(tmp_path / "l.safetensors").represent(images()), learner.represent(images()))
    assert model_card(learner.card)["made"]["method"] == "architecture search"
    with pytest.raises(UserError, match="allowed: spos"):
        trained.load_learner("none", tmp_path)


def test_calibration_images_are_recovered_ones_in_the_size_of_the_learner(finished):
    learner = trained.load_learner("bell", finished.root)
    given = trained.calibration_images(learner, finished.root)
    assert given.dtype == torch.uint8
    assert given.shape[1:] == (3, 16, 16)
    files = [finished.outputs("invert", "five", teacher)["images"] for teacher in ("alpha", "beta", "gamma")]
    pools = torch.cat([artifacts.read_tensors(file)["images"] for file in files]).flatten(1)
    assert all((pools == image).all(1).any() for image in given.flatten(1))


def test_the_commands_list_the_networks_and_use_the_best_one_within_limits(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(finished.root)
    rows = trained.compared()
    printed = CliRunner().invoke(app, ["networks"]).stdout
    assert all(f"\n{row['name']} " in printed for row in rows)
    for number, image in enumerate(images()):
        (tmp_path / f"photos/{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"photos/{number % 2}/{number}.png")
    macs = min(row["macs"] for row in rows)
    (fits,) = {row["name"] for row in rows if row is next(row for row in rows if row["macs"] <= macs)}
    choices = {"--max-parameters=1000000": rows[0]["name"], f"--max-macs={macs}": fits, "--backbone=2 teachers": "2 teachers"}
    for option, name in choices.items():
        result = CliRunner().invoke(app, ["adapt", str(tmp_path / "photos"), "--output", str(tmp_path / "c.safetensors"), option])
        assert result.exit_code == 0
        assert f"by {name}; " in result.stderr
