"""Published zoos reach the accuracy that their authors report.

Needs the environment variable DATAFREE_DATA: a folder with ``checkpoints/``, ``cifar10_test.npz``, ``zoo_cifarfs_conv4/`` and
``cifarfs_train_{a,b}.npz``; an image file holds one WebP mosaic of 32-pixel tiles per class.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datafree import artifacts
from datafree.zoo import sources
from datafree.zoo.backbones import Normalise
from datafree.zoo.manifest import Entry, read_manifest
from datafree.zoo.teachers import load_checkpoint
from datafree.zoo.training import logits_of

PROJECT = Path(__file__).parents[2]
ERRORS = {"cifar10-resnet20": 827, "cifar10-resnet32": 737, "cifar10-resnet44": 690, "cifar10-resnet56": 661}  # of 10,000 test images


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("DATAFREE_DATA")
    if not folder:
        pytest.skip("DATAFREE_DATA is not set: it names the folder of published checkpoints and images")
    return Path(folder).resolve()


def mosaics(path: Path) -> dict[str, torch.Tensor]:
    """Images uint8 [n, 3, 32, 32] by class name."""
    with np.load(path) as stored:
        content, starts, names = stored["webp"], stored["offset"], [str(name) for name in stored["class_name"]]
    images = {}
    for name, first, end in zip(names, starts[:-1], starts[1:], strict=True):
        picture = np.asarray(Image.open(io.BytesIO(content[first:end].tobytes())).convert("RGB"))
        rows = picture.reshape(picture.shape[0] // 32, 32, -1, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
        images[name] = torch.from_numpy(rows.copy()).permute(0, 3, 1, 2).contiguous()
    return images


def correct(entry: Entry, path: Path, images: list[torch.Tensor]) -> int:
    """Number of images that the teacher of ``path`` classifies correctly; one tensor of images per class, in the order of the logits."""
    network = load_checkpoint(entry, path, len(entry.classes))
    labels = torch.repeat_interleave(torch.tensor([len(part) for part in images]))
    predicted = logits_of(network, Normalise(entry.mean, entry.std), torch.cat(images), torch.device("cpu")).argmax(1)
    return int((predicted == labels).sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", ERRORS)
def test_the_cifar10_resnets_make_exactly_the_published_errors(data, name):
    entry = {entry.name: entry for entry in read_manifest(PROJECT / "zoos" / "cifar10-resnets.yaml")}[name]
    # The manifest names data/checkpoints/ of a user's folder.
    entry.file = entry.file.removeprefix("../data/")
    path = sources.fetch(entry, data, Path("unused"))
    images = mosaics(data / "cifar10_test.npz")
    assert list(images) == entry.classes
    assert 10_000 - correct(entry, path, list(images.values())) == ERRORS[name]


@pytest.mark.slow
def test_the_cifar_fs_teachers_reach_their_listed_accuracy(data, tmp_path):
    index = artifacts.read_json(data / "zoo_cifarfs_conv4" / "index.json")
    listed = {item["name"]: item for item in index}
    written = tmp_path / "zoo.yaml"
    script = [sys.executable, PROJECT / "benchmarks" / "manifest_from_index.py", data / "zoo_cifarfs_conv4" / "index.json", written]
    subprocess.run([*script, "--licence", "own work"], check=True, capture_output=True)
    entries = read_manifest(written)
    assert len(entries) == 100
    images = mosaics(data / "cifarfs_train_a.npz") | mosaics(data / "cifarfs_train_b.npz")
    largest_difference = 0.0
    for entry in entries:
        rng = torch.Generator().manual_seed(listed[entry.name]["seed"])
        held = [images[name][torch.randperm(600, generator=rng)[480:]] for name in entry.classes]
        count = correct(entry, sources.fetch(entry, tmp_path, Path("unused")), held)
        assert count / 600 == pytest.approx(listed[entry.name]["val_accuracy"], abs=0.005)
        largest_difference = max(largest_difference, abs(count / 600 - listed[entry.name]["val_accuracy"]))
    print(f"{len(entries)} teachers: largest difference from the listed accuracy {largest_difference:.5f}")
