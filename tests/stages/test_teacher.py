import hashlib

import pytest
import torch

from datafree import artifacts
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


def test_another_seed_in_the_manifest_gives_other_classes_and_weights(project, tmp_path):
    project.run(project.changed_teacher("alpha", tmp_path, train=TrainSource(classes=4, seed=7)))
    first, second = (artifacts.read_tensors(path) for path in (project.outputs("teacher", "alpha")["weights"], tmp_path / "weights"))
    assert not torch.equal(first["head.weight"], second["head.weight"])


def test_a_teacher_with_zero_steps_keeps_its_initialisation(project, tmp_path):
    for noise in (0.0, 1.0):  # without effect if there are no steps
        project.run(project.changed_teacher("alpha", tmp_path, train=TrainSource(classes=4, steps=0, label_noise=noise)))
        weights = artifacts.read_tensors(tmp_path / "weights")
        assert all((value == 0).all() for name, value in weights.items() if name.endswith(("running_mean", "num_batches_tracked")))
        assert artifacts.read_json(tmp_path / "card")["trained_statistics"] is False


def test_label_noise_changes_the_teacher(project, tmp_path):
    project.run(project.changed_teacher("alpha", tmp_path, train=TrainSource(classes=4, label_noise=1.0)))
    without_noise = artifacts.read_tensors(project.outputs("teacher", "alpha")["weights"])
    assert not torch.equal(artifacts.read_tensors(tmp_path / "weights")["head.weight"], without_noise["head.weight"])


def test_a_local_checkpoint_is_copied_unchanged(project):
    teacher, card = read(project, "gamma")
    expected = project.local_checkpoint.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in teacher.network.state_dict().items())
    assert card["classes"] == ["real-2", "real-0", "real-5"]
    assert card["sha256"] == hashlib.sha256((project.root / "zoos/gamma.pth").read_bytes()).hexdigest()
    assert (card["source"], card["accuracy"], card["licence"]) == ("gamma.pth", None, "CC0")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("alpha", {"train": TrainSource(classes=2, domain="maps")}, "train.classes is 2; the training split has 0 classes of maps"),
        ("alpha", {"train": TrainSource(classes=7)}, "zoo.manifest: alpha: train.classes is 7; the training split has 6 classes"),
        ("gamma", {"sha256": "0" * 64}, "zoos/gamma.pth: SHA-256 is"),
        ("gamma", {"classes": ["a", "b"]}, "zoos/gamma.pth: the checkpoint has 3 classes, the manifest names 2"),
    ],
)
def test_a_mistake_in_the_manifest_is_one_line(project, tmp_path, name, change, message):
    with pytest.raises(UserError, match=message):
        project.run(project.changed_teacher(name, tmp_path, **change))
    assert list(tmp_path.iterdir()) == []
