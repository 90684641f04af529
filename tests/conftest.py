"""Fixtures for all tests: small teachers, pools and image sets. Tests do not change fixtures of session scope."""

from __future__ import annotations

import copy
import errno
import re
import resource
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from datafree import devices
from datafree.data.images import ImageSet
from datafree.distillation.joined_pools import JoinedPools
from datafree.tasks.pools import Pool
from datafree.zoo.backbones import Normalise
from datafree.zoo.manifest import Architecture, Entry
from datafree.zoo.teachers import Teacher, empty_network, freeze, soft_labels
from tests import shapes

shapes.install()  # before any test module imports what it checks
torch.set_num_threads(1)
settings.register_profile("datafree", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("datafree")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--precision", choices=["float32", "bfloat16"], default="float32", help="precision of stages and workflow jobs")


@pytest.fixture(scope="session")
def precision(pytestconfig: pytest.Config) -> str:
    """Precision of stages and workflow jobs, from the command line."""
    return pytestconfig.getoption("--precision")


@pytest.fixture(scope="session")
def presets_below():
    """A function from a preset's path to the presets that its heading names after "Use with", in the order of the command line."""

    def find(preset: Path) -> list[Path]:
        named = re.search(r"Use with presets/(\S+\.yaml)", preset.read_text(encoding="utf-8"))
        return [] if named is None else [*find(preset.with_name(named[1])), preset.with_name(named[1])]

    return find


def patterned(classes: int, per_class: int, size: int, seed: int, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 [classes·per_class, 3, size, size], one coarse pattern per class with noise, and labels int64."""
    rng = devices.generator(seed, "patterned")
    coarse = torch.rand(classes, 3, 4, 4, generator=rng)
    labels = torch.arange(classes * per_class) % classes
    images = torch.nn.functional.interpolate(coarse, size=(size, size))[labels]
    images = images + noise * torch.randn(images.shape, generator=rng)
    return (images.clamp(0, 1) * 255).to(torch.uint8), labels


def untrained_teacher(
    name: str,
    classes: tuple[str, ...],
    seed: int,
    *,
    architecture: str = "conv4",
    width: int = 8,
    size: int = 32,
    channels: int = 3,
    mean: float = 0.5,
) -> Teacher:
    """A teacher with random weights, scaled for confident predictions, and running statistics of patterned images."""
    entry = Entry(name=name, architecture=Architecture(architecture, width), input=[channels, size, size])
    network = empty_network(entry, len(classes), seed)
    normalise = Normalise([mean] * channels, [mean / 2] * channels, entry.input)
    images, _ = patterned(6, 8, size, seed)
    with torch.no_grad():
        network.head.weight.mul_(4)
        network.train()
        for _ in range(30):
            network(normalise(images))
    return Teacher(name, freeze(network), normalise, classes, (channels, size, size))


def in_float64(teacher: Teacher) -> Teacher:
    """A copy of the teacher in float64."""
    network, normalise = copy.deepcopy(teacher.network).double(), copy.deepcopy(teacher.normalise).double()
    return Teacher(teacher.name, freeze(network), normalise, teacher.classes, teacher.input)


@pytest.fixture(scope="session")
def make_teacher():
    return untrained_teacher


@pytest.fixture(scope="session")
def make_images():
    return patterned


@pytest.fixture(scope="session")
def teachers() -> list[Teacher]:
    """Three teachers with 3, 4 and 5 classes, one of them shared by the first two, and different normalisations."""
    return [
        untrained_teacher("first", ("ant", "bee", "cat"), 1, mean=0.5),
        untrained_teacher("second", ("cat", "dog", "elk", "fox"), 2, mean=0.4),
        untrained_teacher("third", ("gnu", "hen", "ibis", "jay", "kiwi"), 3, mean=0.45),
    ]


@pytest.fixture(scope="session")
def pools(teachers) -> list[Pool]:
    """Eight images per class of each teacher."""
    made = []
    for number, teacher in enumerate(teachers):
        images, labels = patterned(len(teacher.classes), 8, 32, seed=10 + number)
        made.append(Pool(images, labels, soft_labels(teacher, images), teacher.classes))
    return made


@pytest.fixture(scope="session")
def image_set() -> ImageSet:
    """Twelve easily separable classes of ten images, 32 pixels."""
    images, labels = patterned(12, 10, 32, seed=5)
    return ImageSet(images, labels, tuple(f"class-{label}" for label in range(12)))


@pytest.fixture(scope="session")
def state_of():
    """A function from a network to its state: weights, buffers, modes, trainable parameters, gradients and hooks."""

    def look(network: torch.nn.Module) -> dict:
        return {
            "values": {name: value.clone() for name, value in network.state_dict().items()},
            "training": [module.training for module in network.modules()],
            "trainable": [parameter.requires_grad for parameter in network.parameters()],
            "gradients": [parameter.grad for parameter in network.parameters()],
            "hooks": sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()),
        }

    return look


@pytest.fixture(scope="session")
def assert_same_state():
    def compare(first: dict, second: dict) -> None:
        assert first["values"].keys() == second["values"].keys()
        for name, value in first["values"].items():
            assert torch.equal(value, second["values"][name]), name
        for part in ("training", "trainable", "hooks"):
            assert first[part] == second[part], part
        assert all(a is b for a, b in zip(first["gradients"], second["gradients"], strict=True))

    return compare


@pytest.fixture(scope="session")
def full_disk():
    """A context in which writes beyond 2 KiB per file fail with an OSError, as on a full disk."""

    @contextmanager
    def limited():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def no_space() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="session")
def joined(pools) -> JoinedPools:
    """Three teachers' pools with 3, 4 and 5 classes, at 16 pixels."""
    halved = [replace(pool, images=pool.images[..., ::2, ::2]) for pool in pools]
    return JoinedPools.join(halved, Normalise([0.5] * 3, [0.25] * 3))
