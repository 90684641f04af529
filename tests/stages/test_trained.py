"""Finding learners and teachers of a project, to learn new classes with them."""

import json

import pytest
import torch

import datafree
from datafree import artifacts
from datafree.config import BackboneConfig
from datafree.errors import UserError
from datafree.evaluation.baselines import network_embedding
from datafree.evaluation.readouts import Reader, heads_of
from datafree.nas.networks import build
from datafree.predict.files import write_learner
from datafree.predict.model_card import as_markdown, model_card
from datafree.stages.files import trained
from datafree.stages.files.learners import read_learner
from datafree.stages.files.teachers import read_teacher
from datafree.zoo.backbones import Normalise
from datafree.zoo.networks import network_card

CELL = "|nor_conv_1x1~0|+|skip_connect~0|none~1|+|none~0|none~1|skip_connect~2|"


@pytest.fixture
def finished(project):
    """The tiny project after its evaluation."""
    project.outputs("few_shot")
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
    reader = Reader.of(["joined"], heads_of(teacher.network.head))
    embedding = network_embedding(teacher.network.backbone, teacher.normalise, reader, torch.device("cpu"), mirrored=False)
    with torch.no_grad():
        (expected,) = embedding(images(learner.image_size)).values()
    torch.testing.assert_close(learner.represent(images(learner.image_size)), expected)
    assert learner.card["licence"] == "CC0"
    assert len(learner.negatives) > 0


@pytest.mark.parametrize("name", ["bell", "beta"])
def test_a_network_in_a_file_of_its_own_represents_images_as_before(finished, tmp_path, name):
    learner = trained.load_teacher(name, finished.root) if name == "beta" else trained.load_learner(name, finished.root)
    write_learner(tmp_path / "l.safetensors", learner)
    read = trained.load_learner(tmp_path / "l.safetensors")
    assert torch.equal(read.represent(images()), learner.represent(images()))
    assert json.dumps(read.card, sort_keys=True) == json.dumps(dict(learner.card), sort_keys=True)


def test_a_learner_is_found_by_its_folder_and_by_its_file(finished):
    folder = finished.root / "artifacts/meta/distillation/seed4"
    by_folder, by_file = trained.load_learner(folder), trained.load_learner(folder / "learner.safetensors")
    assert by_folder.card["seed"] == by_file.card["seed"] == 4
    assert datafree.load_learner(folder).learner.card["arm"] == "distillation"


def test_the_best_network_is_that_of_the_highest_mean_accuracy_within_the_limit(finished):
    rows = [row for row in artifacts.read_json(finished.root / trained.RESULTS)["rows"] if not row["variant"]]
    (best,) = [row for row in rows if row["name"] == "best teacher"]
    assert [row["name"] for row in best["teachers"]] == ["alpha", "beta", "gamma"]
    for shot in ("1", "2"):
        assert max(row["shots"][shot]["mean"] for row in best["teachers"]) == best["shots"][shot]["mean"]
    every = [row for row in rows if row["kind"] == "arm"] + best["teachers"]
    means = {row["name"]: sum(shot["mean"] for shot in row["shots"].values()) / 2 for row in every}
    known = trained.choices(finished.root)
    assert {choice.name: choice.mean for choice in known} == pytest.approx(means)
    assert {choice.name for choice in known if choice.is_teacher} == {"alpha", "beta", "gamma"}
    assert trained.best_network(project=finished.root).mean == max(means.values())
    smallest = min(row["parameters"] for row in every)
    assert trained.best_network(smallest, finished.root).parameters == smallest
    with pytest.raises(UserError, match=f"--max-parameters: got 3; the smallest network of this project has {smallest}"):
        trained.best_network(3, finished.root)


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
        (lambda root: trained.best_network(project=root / "artifacts"), "found no evaluated learner in"),
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
    assert "Not measured" in as_markdown(model_card(trained.load_teacher("beta", finished.root).card))


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
