import dataclasses

import pytest
import torch

from datafree import artifacts, checkpoints
from datafree.distillation import ensemble as ensembles
from datafree.distillation.prediction_cache import PredictionCache
from datafree.meta import ARMS
from datafree.stages import episodes
from datafree.stages import learner as learner_stage
from datafree.stages.files.learners import read_learner
from datafree.stages.files.pools import read_pool
from datafree.stages.files.tasks import read_sampling_weights
from datafree.tasks.reliability import TeacherReliability

CELL = "|nor_conv_1x1~0|+|skip_connect~0|none~1|+|none~0|none~1|skip_connect~2|"


def test_episodes_index_the_pools_of_their_method(project):
    outputs = project.outputs("episodes", "five")
    tensors = artifacts.read_tensors(outputs["episodes"], "index", "teacher", "label")
    assert artifacts.read_metadata(outputs["episodes"]) == {"shot": 2}
    assert tensors["index"].shape == (8, 3, 4)
    names = ("alpha", "beta", "gamma")
    pools = [read_pool(project.outputs("invert", "five", t)["images"], project.outputs("teacher", t)["card"]) for t in names]
    for index, teacher, label in zip(*tensors.values(), strict=True):
        for places, t, c in zip(index, teacher.tolist(), label.tolist(), strict=True):
            assert (pools[t].labels[places] == c).all()
    mixed = (tensors["teacher"] != tensors["teacher"][:, :1]).any(1).sum().item()
    counts = {"episodes": 8, "mixed_episodes": mixed, "images": sum(len(p.labels) for p in pools), "teachers": 3, "teachers_dropped": 0}
    assert artifacts.read_json(outputs["metrics"]) == counts


@pytest.mark.parametrize("check", [True, False])
def test_an_unreliable_teacher_is_not_sampled(project, tmp_path, monkeypatch, capsys, check):
    def fake_reliability(pools, teachers, *, seed, device, together):
        weights = (1.0, 0.3, 0.0)
        return [
            TeacherReliability(teacher.name, weight, 0.5, 0.1, 0.5, 0.9, None, 0.3, "" if weight == 1 else "agreement 0.50")
            for teacher, weight in zip(teachers, weights, strict=True)
        ]

    monkeypatch.setattr(episodes, "teacher_reliability", fake_reliability)
    job = project.job_of("episodes", "five")
    outputs = {name: str(tmp_path / name) for name in job.outputs}
    tasks = {**job.config["tasks"], "check_teachers": check, "episodes": 60}
    project.run(dataclasses.replace(job, outputs=outputs, config={**job.config, "tasks": tasks}))
    sampled = artifacts.read_tensors(outputs["episodes"])["teacher"].flatten().bincount(minlength=3)
    assert bool(sampled[2] == 0) is check
    assert sampled[1] > 0
    assert read_sampling_weights(outputs["reliability"]).tolist() == ([1, 0.3, 0] if check else [1, 1, 1])
    reliability = artifacts.read_json(outputs["reliability"])
    assert reliability["checked"] is check
    assert [row["reason"] for row in reliability["teachers"]] == ["", "agreement 0.50", "agreement 0.50"]
    assert artifacts.read_json(outputs["metrics"])["teachers_dropped"] == check
    assert "warning: teacher gamma is dropped: agreement 0.50" in capsys.readouterr().err


def test_the_log_and_the_file_say_that_few_teachers_are_not_judged(project, tmp_path, capsys):
    job = project.job_of("episodes", "five")
    outputs = {name: str(tmp_path / name) for name in job.outputs}
    project.run(dataclasses.replace(job, outputs=outputs))
    reason = "a comparison takes at least 5 teachers, and the zoo has 3"
    reliability = artifacts.read_json(outputs["reliability"])
    assert reliability["not_judged"] == reason
    assert [row["weight"] for row in reliability["teachers"]] == [1, 1, 1]
    expected = f"warning: the reliability of the teachers is not judged, and all have weight 1: {reason}"
    assert expected in capsys.readouterr().err.splitlines()


CLASSIFIERS = {"bell": "nearest centroid", "distillation": "nearest centroid", "maml": "2 gradient steps of 0.05 on the whole network"}


@pytest.mark.parametrize("arm", CLASSIFIERS)
def test_a_learner_can_be_loaded_and_its_card_describes_it(project, arm):
    outputs = project.outputs("learner", arm, 0)
    card = artifacts.read_json(outputs["card"])
    described = {name: card[name] for name in ("arm", "seed", "method", "input", "classifier")}
    assert described == {"arm": arm, "seed": 0, "method": arm, "input": [3, 16, 16], "classifier": CLASSIFIERS[arm]}
    assert card["adaptation"]["part"] == ("network" if arm == "maml" else "nothing")
    assert card["inversion"] == project.settings.meta.arms[arm].inversion
    assert card["mean"] == pytest.approx([(0.5 + 0.4 + 0.5) / 3] * 3)
    backbone, normalise, heads, _ = read_learner(outputs["learner"], outputs["card"])
    assert (card["teacher_classes"], card["trained_heads"]) == ([4, 3, 3], arm != "maml")
    assert (heads is None) == (arm == "maml")
    features = backbone.eval()(normalise(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)))
    assert features.shape == (2, backbone.feature_size)
    history = artifacts.read_history(outputs["history"])
    assert history[-1]["step"] == 2
    metrics = artifacts.read_json(outputs["metrics"])
    assert metrics == {f"final_{name}": pytest.approx(value, rel=1e-5) for name, value in history[-1].items() if name != "step"}


def test_seeds_give_different_learners(project):
    first, second = (artifacts.read_tensors(project.outputs("learner", "bell", seed)["learner"]) for seed in (0, 4))
    assert not torch.equal(first["backbone.blocks.0.conv.weight"], second["backbone.blocks.0.conv.weight"])


@pytest.mark.parametrize("arm", ["bell", "distillation"])
def test_a_learner_does_not_depend_on_what_its_process_trained_before(arm, project, tmp_path, monkeypatch):
    def train(folder, *seeds):
        monkeypatch.setattr(ensembles, "_PREDICTIONS", PredictionCache())
        job = project.job_of("learner", arm, 0)
        for seed in seeds:
            outputs = {name: str(tmp_path / folder / str(seed) / name) for name in job.outputs}
            written = project.run(dataclasses.replace(job, wildcards={**job.wildcards, "seed": str(seed)}, outputs=outputs))
        return written

    assert train("after", 0, 4) == train("alone", 4)


def test_a_search_result_becomes_the_backbone(project, tmp_path):
    job = project.job_of("learner", "bell", 0)
    artifacts.write_json(tmp_path / "architecture.json", {"backbone": "nasbench201", "channels": 8, "genotype": CELL, "cells": 2})
    arm = {**job.config["meta.arms.bell"], "backbone": {"name": "nasbench201", "width": 4, "genotype": "searched", "cells": 1}}
    searched = dataclasses.replace(
        job,
        config={**job.config, "meta.arms.bell": arm},
        inputs={**job.inputs, "architecture": str(tmp_path / "architecture.json")},
        outputs={name: str(tmp_path / name) for name in job.outputs},
    )
    project.run(searched)
    card = artifacts.read_json(tmp_path / "card")
    assert card["backbone"] == {"name": "nasbench201", "width": 4, "genotype": CELL, "cells": 2}
    assert read_learner(tmp_path / "learner", tmp_path / "card")[0].feature_size == 16


@pytest.mark.parametrize(("arm", "changes"), [("distillation", {}), ("bell", {}), ("bell", {"one_head": True})])
def test_the_heads_of_the_file_give_the_logits_that_they_gave_in_training(project, tmp_path, monkeypatch, arm, changes):
    trained = {}
    train = ARMS[arm]
    monkeypatch.setattr(learner_stage, "ARMS", {arm: lambda learner, *rest: trained.update(learner=learner) or train(learner, *rest)})
    job = project.job_of("learner", arm, 0)
    config = {**job.config, f"meta.arms.{arm}": {**job.config[f"meta.arms.{arm}"], **changes}}
    project.run(dataclasses.replace(job, config=config, outputs={name: str(tmp_path / name) for name in job.outputs}))
    backbone, normalise, heads, weights = read_learner(tmp_path / "learner", tmp_path / "card")
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    logits = heads.of_all(backbone.eval()(normalise(images)))
    expected = trained["learner"].eval()(normalise(images), range(3))[1]
    assert torch.equal(logits, expected)
    assert (logits[0] > -1e3).sum(-1).tolist() == [4, 3, 3]
    assert len(heads.bias) == (1 if changes else 3)
    assert min(weights) > 0


def test_without_a_distillation_loss_no_heads_are_written(project, tmp_path):
    job = project.job_of("learner", "bell", 0)
    config = {**job.config, "meta.arms.bell": {**job.config["meta.arms.bell"], "distillation": 0.0}}
    project.run(dataclasses.replace(job, config=config, outputs={name: str(tmp_path / name) for name in job.outputs}))
    assert all(name.startswith("backbone.") for name in artifacts.read_tensors(tmp_path / "learner"))
    assert artifacts.read_json(tmp_path / "card")["trained_heads"] is False


def test_a_killed_learner_resumes_to_the_same_bytes(project, monkeypatch):
    expected = {name: path.read_bytes() for name, path in project.outputs("learner", "distillation", 0).items()}

    def save_and_die(self, step, history, **objects):
        self.seconds_between = 0
        real(self, step, history, **objects)
        if step == 1:
            raise KeyboardInterrupt

    real = checkpoints.Checkpoint.save
    monkeypatch.setattr(checkpoints.Checkpoint, "save", save_and_die)
    job = dataclasses.replace(
        project.job_of("learner", "distillation", 0), outputs={n: f"killed_learner/{n}" for n in [*expected, "provenance"]}
    )
    with pytest.raises(KeyboardInterrupt):
        project.run(job)
    assert list((project.root / ".datafree/checkpoints").iterdir())
    monkeypatch.undo()
    assert project.run(job) == expected
    assert not list((project.root / ".datafree/checkpoints").iterdir())


@pytest.mark.parametrize(
    ("arm", "views", "common"), [("bell", "fresh", True), ("distillation", "reinforced", False), ("maml", None, False)]
)
def test_seeds_of_an_arm_with_fresh_views_of_queried_teachers_share_batches_but_not_initial_weights(
    arm, views, common, project, tmp_path, monkeypatch
):
    seeds, weights = [], []

    def pretend(learner, ensemble, episodes, arm, seed, checkpoint):
        seeds.append(seed)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in learner.parameters()]))
        return [{"step": 1, "loss": 0.0}]

    monkeypatch.setattr(learner_stage, "ARMS", {arm: pretend})
    job = project.job_of("learner", arm, 0)
    if views:
        job = dataclasses.replace(job, config={**job.config, f"meta.arms.{arm}": {**job.config[f"meta.arms.{arm}"], "views": views}})
    for seed in ("0", "1"):
        outputs = {name: str(tmp_path / seed / name) for name in job.outputs}
        project.run(dataclasses.replace(job, wildcards={**job.wildcards, "seed": seed}, outputs=outputs))
    assert (seeds[0] == seeds[1]) == common
    assert not torch.equal(*weights)


def test_the_arm_is_given_the_learner_the_ensemble_and_the_tasks_of_the_job(project, tmp_path, monkeypatch):
    given = {}

    def pretend(learner, ensemble, episodes, arm, seed, checkpoint):
        given.update(learner=learner, ensemble=ensemble, episodes=episodes, arm=arm)
        return [{"step": 1, "loss": 0.0}]

    monkeypatch.setattr(learner_stage, "ARMS", {"bell": pretend})
    job = project.job_of("learner", "bell", 0)
    project.run(dataclasses.replace(job, outputs={name: str(tmp_path / name) for name in job.outputs}))
    card = artifacts.read_json(tmp_path / "card")
    learner, ensemble = given["learner"], given["ensemble"]
    assert learner.normalise.mean.flatten().tolist() == pytest.approx(card["mean"])
    assert learner.normalise.std.flatten().tolist() == pytest.approx(card["std"])
    assert ensemble.normalise is learner.normalise
    assert [teacher.name for teacher in ensemble.teachers] == ["alpha", "beta", "gamma"]
    for teacher, pool in zip(ensemble.teachers, ensemble.pools, strict=True):
        assert pool.classes == teacher.classes
        expected = artifacts.read_tensors(project.outputs("invert", "five", teacher.name)["images"])
        assert torch.equal(pool.images, expected["images"])
    assert learner.heads.weight.shape[:2] == (3, 4)
    assert given["arm"] == project.settings.meta.arms["bell"]
    assert (given["episodes"].shot, len(given["episodes"])) == (2, 8)


@pytest.mark.parametrize(("start", "chosen"), [("gamma", "gamma"), ("auto", "alpha")])
def test_a_learner_that_starts_as_a_teacher_has_its_architecture_and_normalisation(project, tmp_path, monkeypatch, start, chosen):
    monkeypatch.setattr(learner_stage, "best_start", lambda ensemble, seed: [t.name for t in ensemble.teachers].index("alpha"))
    job = project.job_of("learner", "distillation", 0)
    outputs = {name: str(tmp_path / name) for name in job.outputs}
    arm = {**job.config["meta.arms.distillation"], "start": start, "learning_rate": 1e-8}
    project.run(dataclasses.replace(job, outputs=outputs, config={**job.config, "meta.arms.distillation": arm}))
    card, of_teacher = artifacts.read_json(outputs["card"]), artifacts.read_json(project.outputs("teacher", chosen)["card"])
    assert card["start"] == chosen
    assert card["backbone"]["name"] == of_teacher["architecture"]["name"]
    assert card["backbone"]["width"] == of_teacher["architecture"]["width"]
    assert card["mean"] == of_teacher["mean"]
    backbone, _, heads, _ = read_learner(outputs["learner"], outputs["card"])
    weights = artifacts.read_tensors(project.outputs("teacher", chosen)["weights"])
    for name, value in backbone.named_parameters():
        torch.testing.assert_close(value.detach(), weights[f"backbone.{name}"], rtol=0, atol=1e-6)
    index, classes = ("alpha", "beta", "gamma").index(chosen), len(of_teacher["classes"])
    torch.testing.assert_close(heads.weight.detach()[index, :classes], weights["head.weight"], rtol=0, atol=1e-6)


def test_a_learner_that_starts_at_random_says_so(project):
    assert artifacts.read_json(project.outputs("learner", "distillation", 0)["card"])["start"] is None
