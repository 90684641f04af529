"""A small trained learner and folders of photos."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from datafree.config import BackboneConfig, as_tree
from datafree.distillation.heads import TeacherHeads
from datafree.evaluation.representations import JoinWeights
from datafree.nas.networks import build
from datafree.predict.network import RepresentationNetwork, SideBySide, TrainedLearner
from datafree.zoo.backbones import Normalise

CLASSES = (3, 2, 4)  # of three teachers


def make_learner(*, heads: bool = True, shared: bool = False, mirrored: bool = True, size: int = 16) -> TrainedLearner:
    config = BackboneConfig("conv4", 8)
    backbone = build(config, 3, size, 0)
    rng = torch.Generator().manual_seed(1)
    for module in backbone.modules():  # as if trained: statistics that differ from those of a new layer
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2, generator=rng)
            module.running_var.uniform_(0.5, 1.5, generator=rng)
    of_teachers = TeacherHeads(backbone.feature_size, CLASSES, shared) if heads else None
    normalise = Normalise([0.4, 0.5, 0.6], [0.2, 0.25, 0.3], [3, size, size])
    network = RepresentationNetwork(backbone, normalise, of_teachers, JoinWeights(1.5, 0.7), mirrored=mirrored)
    card = {
        "backbone": as_tree(config),
        "input": [3, size, size],
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.25, 0.3],
        "teacher_classes": list(CLASSES) if heads else [],
        "arm": "distillation",
    }
    images = torch.randint(0, 256, (24, 3, size, size), dtype=torch.uint8, generator=rng)
    return TrainedLearner(network, TrainedLearner(network, torch.empty(0, 0), card).represent(images), card)


@pytest.fixture(scope="session")
def learner() -> TrainedLearner:
    return make_learner()


@pytest.fixture(scope="session")
def variants():
    """A function that makes learners: with or without heads, mirrored or not."""
    return make_learner


@pytest.fixture(scope="session")
def group() -> TrainedLearner:
    """Two learners side by side, for images of 16 and of 20 pixels."""
    members = [make_learner(), make_learner(size=20)]
    network = SideBySide([network for member in members for network in member.members])
    card = {"members": [member.card for member in members], "input": [3, 20, 20], "arm": "2 teachers", "teacher_classes": []}
    images = torch.randint(0, 256, (24, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return TrainedLearner(network, TrainedLearner(network, torch.empty(0, 0), card).represent(images), card)


@pytest.fixture
def photos(tmp_path, make_images):
    """A folder of three classes with 1, 3 and 4 PNG files of 20 pixels."""
    images, labels = make_images(3, 4, 20, seed=3)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        if label == 0 and number > 2:
            continue
        if label == 1 and number > 9:
            continue
        folder = tmp_path / "photos" / ("ärger", "<b>bee", "猫")[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    return tmp_path / "photos"
