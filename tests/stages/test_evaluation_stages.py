import dataclasses
import importlib

import pytest
import torch
from PIL import Image

from datafree import artifacts
from datafree.data.images import ImageSet
from datafree.errors import UserError
from datafree.stages.files.image_sets import read_image_set, write_image_set
from datafree.stages.files.networks import read_backbone, read_classifier
from datafree.tasks.pools import real_pool
from datafree.zoo.training import accuracy, hold_out, logits_of

CPU = torch.device("cpu")


def moved(job, folder, **inputs):
    """The job with other inputs (None = without) and its outputs elsewhere."""
    given = {name: path for name, path in {**job.inputs, **inputs}.items() if path is not None}
    return dataclasses.replace(job, inputs=given, outputs={name: str(folder / name) for name in job.outputs})


CELL = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|none~0|none~1|skip_connect~2|"

# ---- oracle and judge -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "backbone"), [("oracle", "conv4_strided"), ("judge", "resnet8")])
def test_a_reference_has_exactly_the_classes_of_the_teachers(project, name, backbone):
    outputs = project.outputs("reference", name)
    card = artifacts.read_json(outputs["card"])
    taught = {c for t in ("alpha", "beta", "gamma") for c in artifacts.read_json(project.outputs("teacher", t)["card"])["classes"]}
    assert set(card["classes"]) == taught
    assert len(card["classes"]) == len(taught)
    assert card["backbone"]["name"] == backbone
    data = read_image_set(project.root / "artifacts/data/train.safetensors")
    held = hold_out(data, 0.2, 0)[1].of_classes([data.classes.index(class_) for class_ in card["classes"]])
    network, normalise = read_classifier(outputs["network"], outputs["card"])
    measured = accuracy(logits_of(network, normalise, held.images, CPU), held.labels)
    assert card["accuracy"] == {"mean": pytest.approx(measured), "n": 2 * len(taught)}
    assert artifacts.read_json(outputs["metrics"]) == {"accuracy": pytest.approx(measured), "classes": len(taught)}


def test_the_searched_oracle_has_the_architecture_of_the_search_result(project, tmp_path):
    result = {"backbone": "nasbench201", "channels": 4, "genotype": CELL, "cells": 1}
    artifacts.write_json(tmp_path / "architecture.json", result)
    project.run(moved(project.job_of("reference", "searched"), tmp_path, architecture=str(tmp_path / "architecture.json")))
    card = artifacts.read_json(tmp_path / "card")
    assert (card["reference"], card["backbone"]["genotype"], card["backbone"]["width"]) == ("searched", CELL, 4)
    files = {"oracles": [str(tmp_path / "network")], "oracle_cards": [str(tmp_path / "card")]}
    project.run(moved(project.job_of("few_shot"), tmp_path / "table", **files))
    assert artifacts.read_json(tmp_path / "table/results")["rows"][-1]["name"] == "real-data oracle, searched"


@pytest.mark.parametrize(("stage", "name"), [("teacher", "alpha"), ("reference", "oracle"), ("reference", "judge")])
def test_no_network_is_trained_on_held_out_images(project, tmp_path, monkeypatch, stage, name):
    seen = {}
    module = importlib.import_module(f"datafree.stages.{stage}")
    monkeypatch.setattr(module, "train_classifier", lambda network, normalise, data, **_: seen.update(trained=data) or [])
    monkeypatch.setattr(
        module, "logits_of", lambda network, normalise, images, device: seen.update(measured=images) or torch.eye(len(images))
    )
    job = project.job_of(stage, name)
    project.run(moved(job, tmp_path))
    held = hold_out(read_image_set(project.root / "artifacts/data/train.safetensors"), 0.2, 0)[1]

    def fingerprints(images):
        return {image.numpy().tobytes() for image in images}

    assert fingerprints(seen["measured"]) <= fingerprints(held.images)
    assert not fingerprints(seen["trained"].images) & fingerprints(held.images)


@pytest.mark.parametrize(("name", "part"), [("protonet", "nothing"), ("maml", "network")])
def test_an_episodic_oracle_is_not_trained_on_held_out_images(project, tmp_path, monkeypatch, name, part):
    outputs = project.outputs("reference", name)
    card = artifacts.read_json(outputs["card"])
    assert (card["method"], card["adaptation"]["part"], card["backbone"]["name"]) == (name, part, "conv4_strided")
    backbone, _ = read_backbone(outputs["network"], outputs["card"])
    assert all(torch.isfinite(value).all() for value in backbone.state_dict().values())
    assert artifacts.read_history(outputs["history"])[-1]["step"] == 3
    assert artifacts.read_json(outputs["metrics"])["classes"] == len(card["classes"])
    seen = {}
    module = importlib.import_module("datafree.stages.reference")
    monkeypatch.setattr(module, "real_pool", lambda data: seen.update(trained=data) or real_pool(data))
    project.run(moved(project.job_of("reference", name), tmp_path))
    data = read_image_set(project.root / "artifacts/data/train.safetensors")
    held = {image.numpy().tobytes() for image in hold_out(data, 0.2, 0)[1].images}
    assert not held & {image.numpy().tobytes() for image in seen["trained"].images}
    assert (tmp_path / "network").read_bytes() == outputs["network"].read_bytes()


# ---- quality of recovered images --------------------------------------------------------------------------------------------------------

MEASURES = {
    "teacher_accuracy",
    "teacher_confidence",
    "transfer_accuracy",
    "transfer_confidence",
    "within_class_distance",
    "within_class_ratio",
}


def test_every_method_has_a_row_and_so_have_real_images(project):
    outputs = project.outputs("inversion_quality")
    quality = artifacts.read_json(outputs["quality"])
    assert quality["teachers"] == 3
    assert [row["method"] for row in quality["rows"]] == ["real", "five", "fresh"]
    for row in quality["rows"]:
        assert set(row["metrics"]) == MEASURES
        assert {metric["n"] for metric in row["metrics"].values()} == {3}
    assert quality["rows"][0]["metrics"]["within_class_ratio"]["mean"] == 1
    assert 0 < quality["rows"][0]["metrics"]["teacher_confidence"]["mean"] < 1  # of the teacher's predictions, not of the labels
    metrics = artifacts.read_json(outputs["metrics"])
    assert metrics["five_teacher_accuracy"] == quality["rows"][1]["metrics"]["teacher_accuracy"]["mean"]
    per_teacher = [artifacts.read_json(project.outputs("invert", "five", t)["metrics"]) for t in ("alpha", "beta", "gamma")]
    assert metrics["five_teacher_accuracy"] == pytest.approx(sum(metric["teacher_accuracy"] for metric in per_teacher) / 3)
    assert metrics["five_within_class_distance"] == pytest.approx(sum(metric["within_class_distance"] for metric in per_teacher) / 3)
    with Image.open(outputs["preview"]) as picture:
        assert picture.size[1] == 4 * 18 + 2  # a row per class of the first teacher


def test_without_real_images_of_the_classes_only_measures_by_the_teacher_remain(project, tmp_path):
    data = read_image_set(project.root / "artifacts/data/train.safetensors")
    foreign = ImageSet(data.images, data.labels, tuple(f"foreign-{label}" for label in range(6)))
    write_image_set(tmp_path / "foreign", foreign)
    job = moved(project.job_of("inversion_quality"), tmp_path, train=str(tmp_path / "foreign"), judge=None, judge_card=None)
    project.run(job)
    rows = artifacts.read_json(tmp_path / "quality")["rows"]
    assert [row["method"] for row in rows] == ["five", "fresh"]
    assert set(rows[0]["metrics"]) == {"teacher_accuracy", "teacher_confidence", "within_class_distance"}


# ---- the few-shot table -----------------------------------------------------------------------------------------------------------------


def test_the_table_has_all_learners_baselines_and_oracles(project, precision):
    outputs = project.outputs("few_shot")
    results = artifacts.read_json(outputs["results"])
    settings = {"computed_on": [f"{precision} on any"], "split": "test", "way": 3, "query": 3, "episodes": 6}
    settings["mirrored"] = False
    assert {key: value for key, value in results.items() if key != "rows"} == settings
    names = ["bell", "distillation", "maml", "pixels", "random", "best teacher", "all teachers", "teachers' vote"]
    names += ["real-data oracle", "real-data protonet", "real-data maml"]
    assert [row["name"] for row in results["rows"]] == names
    bell = results["rows"][0]
    assert (bell["kind"], bell["seeds"]) == ("arm", [0, 4])
    assert {shot: result["n"] for shot, result in bell["shots"].items()} == {"1": 12, "2": 12}
    for row in results["rows"]:
        assert all(0 <= result["mean"] <= 1 for result in row["shots"].values())
    metrics = artifacts.read_json(outputs["metrics"])
    assert metrics.pop("split") == "test"
    shown = {"bell", "distillation", "maml", "best_teacher", "real-data_oracle", "real-data_protonet", "real-data_maml"}
    assert set(metrics) == {f"{name}_{shot}shot" for name in shown for shot in (1, 2)}
    assert metrics["bell_2shot"] == bell["shots"]["2"]["mean"]


def test_without_real_images_of_the_teachers_classes_there_is_no_oracle(project, tmp_path):
    without = {"oracles": None, "oracle_cards": None}
    project.run(moved(project.job_of("few_shot"), tmp_path, **without))
    assert [row["name"] for row in artifacts.read_json(tmp_path / "results")["rows"]][-1] == "teachers' vote"


def test_a_split_with_too_few_images_is_refused_before_anything_is_computed(project, tmp_path):
    job = moved(project.job_of("few_shot"), tmp_path)
    crowded = dataclasses.replace(job, config={**job.config, "evaluation": {**job.config["evaluation"], "query": 9}})
    with pytest.raises(
        UserError, match="^evaluation.query: 9 and 2 shots need more images than the smallest class of the test split has, 10"
    ):
        project.run(crowded)
    assert list(tmp_path.iterdir()) == []
