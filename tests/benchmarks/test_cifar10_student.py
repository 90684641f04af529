"""The benchmark of data-free distillation, on three small classifiers."""

import json
from pathlib import Path

import cifar10_student
import pytest
import torch
import yaml
from PIL import Image

from datafree import artifacts
from datafree.errors import UserError

CLASSES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def options(tmp_path_factory, publish) -> list[str]:
    root = tmp_path_factory.mktemp("published")
    publish(root, CLASSES, count=3, per_class=6)
    small = ["--teacher", "net-0", "--images-per-class", "4", "--student", "conv4", "--student-steps", "3", "--student-batch", "8"]
    places = ["--manifest", root / "zoo.yaml", "--checkpoints", root / "files", "--images", root / "images"]
    return [str(argument) for argument in places] + small


def run(options, output, *more):
    cifar10_student.main([*options, "--output", str(output), *more])
    return json.loads((output / "result.json").read_text())


@pytest.mark.parametrize("method", ["{method: pixels, steps: 3}", "{method: generator, steps: 2}"])
def test_a_student_is_trained_on_recovered_images_and_tested_on_real_images(options, tmp_path, method):
    given = ["--method", method, "--inversion", "{meta_generator: {outer_steps: 2, inner_steps: 1}}"]
    result = run(options, tmp_path, *given)
    assert result["recovery"]["images"] == 12
    assert result["recovery"]["cost"]["cpu_seconds"] > 0
    assert {key for key in result["recovery"] if key.startswith("transfer")} == {"transfer_net-1", "transfer_net-2"}
    assert result["recovery"]["frechet"] > 0
    assert result["student"]["images"] == 18
    pool = artifacts.read_tensors(tmp_path / "pool.safetensors")
    assert torch.bincount(pool["labels"]).tolist() == [4, 4, 4]
    assert run(options, tmp_path, *given) == result  # nothing is computed again


def test_an_interrupted_training_resumes_to_the_same_student(options, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10_student, "CHECKPOINT_SECONDS", 0.0)
    given = ["--method", "{method: pixels, steps: 2}"]
    whole = run(options, tmp_path / "whole", *given)
    artifacts.write_tensors(
        tmp_path / "killed" / "pool.safetensors", artifacts.read_tensors(tmp_path / "whole" / "pool.safetensors"), cost=None
    )
    original, calls = cifar10_student.distillation_loss, []

    def interrupting(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(cifar10_student, "distillation_loss", interrupting)
    with pytest.raises(KeyboardInterrupt):
        run(options, tmp_path / "killed", *given)
    resumed = run(options, tmp_path / "killed", *given)
    assert len(calls) == 4  # the third step was repeated, the first two were not
    assert resumed["student"] == whole["student"]
    assert resumed["recovery"] == {**whole["recovery"], "cost": None}


def test_the_noise_baseline_recovers_no_pool(options, tmp_path):
    result = run(options, tmp_path, "--source", "noise")
    assert result["recovery"]["cost"] is None
    assert not (tmp_path / "pool.safetensors").exists()
    assert "accuracy" in result["student"]


def test_wrong_options_raise_user_errors(options, tmp_path):
    with pytest.raises(UserError, match="--teacher: got 'net-9'; the manifest has net-0, net-1, net-2"):
        run(options, tmp_path, "--teacher", "net-9")
    run(options, tmp_path / "a", "--source", "noise")
    with pytest.raises(UserError, match="give another --output"):
        run(options, tmp_path / "a", "--source", "noise", "--seed", "1")
    with pytest.raises(UserError, match="--images: 2 classes under test/; expected the 3 of the classifiers"):
        folder = tmp_path / "images" / "test"
        for name in CLASSES[:2]:
            (folder / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(folder / name / "0.png")
        run(options, tmp_path / "b", "--images", str(folder.parent))


def test_classifiers_of_different_classes_are_refused(options, tmp_path):
    manifest = yaml.safe_load(Path(options[1]).read_text())
    manifest["teachers"][1]["classes"] = ["ant", "bee", "dog"]
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(UserError, match="expected classifiers of the same classes"):
        run(options, tmp_path, "--manifest", str(tmp_path / "zoo.yaml"))
