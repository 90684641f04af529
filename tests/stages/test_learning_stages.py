import dataclasses

import pytest
import torch

from datafree import artifacts, checkpoints
from datafree.distillation import ensemble as ensembles
from datafree.distillation.prediction_cache import PredictionCache
from datafree.stages import episodes
from datafree.stages import learner as learner_stage
from datafree.stages.files.networks import read_backbone
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
    backbone, normalise = read_backbone(outputs["learner"], outputs["card"])
    features = backbone.eval()(normalise(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)))
    assert features.shape == (2, backbone.feature_size)
    history = artifacts.read_history(outputs["history"])
    assert history[-1]["step"] == 2
    metrics = artifacts.read_json(outputs["metrics"])
    assert metrics == {f"final_{name}": pytest.approx(value, rel=1e-5) for name, value in history[-1].items() if name != "step"}


def test_seeds_give_different_learners(project):
    first, second = (artifacts.read_tensors(project.outputs("learner", "bell", seed)["learner"]) for seed in (0, 4))
    assert not torch.equal(first["blocks.0.conv.weight"], second["blocks.0.conv.weight"])


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
    backbone, _ = read_backbone(tmp_path / "learner", tmp_path / "card")
    assert backbone.feature_size == 16


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


@pytest.mark.parametrize(("arm", "common"), [("bell", True), ("distillation", True), ("maml", False)])
def test_seeds_of_an_arm_that_queries_teachers_share_batches_but_not_initial_weights(arm, common, project, tmp_path, monkeypatch):
    seeds, weights = [], []

    def pretend(learner, ensemble, episodes, arm, seed, checkpoint):
        seeds.append(seed)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in learner.parameters()]))
        return [{"step": 1, "loss": 0.0}]

    monkeypatch.setattr(learner_stage, "ARMS", {arm: pretend})
    job = project.job_of("learner", arm, 0)
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
