import dataclasses
import hashlib

import pytest
import torch

from datafree import artifacts
from datafree.config import as_tree
from datafree.errors import UserError
from datafree.stages.files.image_sets import read_image_set
from datafree.stages.files.teachers import read_teacher
from datafree.zoo.manifest import TrainSource
from datafree.zoo.training import accuracy, hold_out, logits_of


def read(project, name):
    outputs = project.outputs("teacher", name)
    return read_teacher(outputs["weights"], outputs["card"]), artifacts.read_json(outputs["card"])


@pytest.mark.parametrize(("name", "classes"), [("alpha", 4), ("beta", 3)])
def test_the_card_of_a_trained_teacher_has_its_classes_and_accuracy(project, name, classes):
    teacher, card = read(project, name)
    data = read_image_set(project.root / "artifacts/data/train.safetensors")
    assert len(set(card["classes"])) == classes
    assert set(card["classes"]) <= set(data.classes)
    assert card["source"] == "trained on the training split"
    assert card["sha256"] == artifacts.sha256(project.outputs("teacher", name)["weights"])
    held = hold_out(data, 0.2, 0)[1].of_classes([data.classes.index(class_) for class_ in card["classes"]])
    measured = accuracy(logits_of(teacher.network, teacher.normalise, held.images, torch.device("cpu")), held.labels)
    assert card["accuracy"] == {"mean": pytest.approx(measured), "n": 2 * classes}


def test_another_seed_in_the_manifest_gives_other_classes_and_weights(project):
    job = project.job_of("teacher", "alpha")
    entry = dataclasses.replace(project.entries["alpha"], train=TrainSource(classes=4, seed=7))
    other = dataclasses.replace(job, config={**job.config, "teacher": as_tree(entry)}, outputs={n: f"other/{n}" for n in job.outputs})
    project.run(other)
    first, second = (
        artifacts.read_tensors(path) for path in (project.outputs("teacher", "alpha")["weights"], project.root / "other/weights")
    )
    assert not torch.equal(first["head.weight"], second["head.weight"])


def test_a_teacher_with_zero_steps_keeps_its_initialisation(project, tmp_path):
    job = project.job_of("teacher", "alpha")
    outputs = {n: str(tmp_path / n) for n in job.outputs}
    for noise in (0.0, 1.0):  # without effect if there are no steps
        entry = dataclasses.replace(project.entries["alpha"], train=TrainSource(classes=4, steps=0, label_noise=noise))
        project.run(dataclasses.replace(job, config={**job.config, "teacher": as_tree(entry)}, outputs=outputs))
        weights = artifacts.read_tensors(outputs["weights"])
        assert all((value == 0).all() for name, value in weights.items() if name.endswith(("running_mean", "num_batches_tracked")))


def test_label_noise_changes_the_teacher(project, tmp_path):
    job = project.job_of("teacher", "alpha")
    entry = dataclasses.replace(project.entries["alpha"], train=TrainSource(classes=4, label_noise=1.0))
    outputs = {n: str(tmp_path / n) for n in job.outputs}
    project.run(dataclasses.replace(job, config={**job.config, "teacher": as_tree(entry)}, outputs=outputs))
    without_noise = artifacts.read_tensors(project.outputs("teacher", "alpha")["weights"])
    assert not torch.equal(artifacts.read_tensors(outputs["weights"])["head.weight"], without_noise["head.weight"])


def test_a_local_checkpoint_is_copied_unchanged(project):
    teacher, card = read(project, "gamma")
    expected = project.local_checkpoint().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in teacher.network.state_dict().items())
    assert card["classes"] == ["real-2", "real-0", "real-5"]
    assert card["sha256"] == hashlib.sha256((project.root / "zoos/gamma.pth").read_bytes()).hexdigest()
    assert (card["source"], card["accuracy"], card["licence"]) == ("gamma.pth", None, "CC0")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("alpha", {"train": TrainSource(classes=2, domain="maps")}, "train.classes is 2; the training split has 0 classes of maps"),
        ("alpha", {"train": TrainSource(classes=7)}, "zoo.manifest: alpha: train.classes is 7; the training split has 6 classes"),
        ("gamma", {"file": "absent.pth"}, "zoos/absent.pth: the checkpoint is missing"),
        ("gamma", {"sha256": "0" * 64}, "zoos/gamma.pth: SHA-256 is"),
        ("gamma", {"classes": ["a", "b"]}, "zoos/gamma.pth: the checkpoint has 3 classes, the manifest names 2"),
    ],
)
def test_a_mistake_in_the_manifest_is_one_line(project, tmp_path, name, change, message):
    job = project.job_of("teacher", name)
    entry = as_tree(dataclasses.replace(project.entries[name], **change))
    inputs = {**job.inputs, "file": f"zoos/{entry['file']}"} if entry["file"] else job.inputs
    outputs = {n: str(tmp_path / n) for n in job.outputs}
    broken = dataclasses.replace(job, config={**job.config, "teacher": entry}, inputs=inputs, outputs=outputs)
    with pytest.raises(UserError, match=message):
        project.run(broken)
    assert list(tmp_path.iterdir()) == []
