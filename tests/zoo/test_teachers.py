import dataclasses

import pytest
import torch

from datafree import artifacts
from datafree.errors import UserError
from datafree.zoo.manifest import Architecture, Entry, TrainSource
from datafree.zoo.teachers import common_input, common_normalisation, empty_network, make_card, move, read_teacher, read_teachers

ENTRY = Entry(
    name="t", architecture=Architecture("conv4_strided", 8), train=TrainSource(), input=[3, 16, 16], mean=[0.1, 0.2, 0.3], licence="CC0"
)


@pytest.fixture
def written(tmp_path):
    network = empty_network(ENTRY, 3, seed=4)
    artifacts.write_tensors(tmp_path / "w", network.state_dict())
    artifacts.write_json(tmp_path / "c", make_card(ENTRY, ["x", "y", "z"], "made here", "ab", {"mean": 0.5, "n": 10}))
    return tmp_path, network


def test_a_teacher_comes_back_frozen(written):
    folder, network = written
    teacher = read_teacher(folder / "w", folder / "c")
    assert (teacher.name, teacher.classes, teacher.input) == ("t", ("x", "y", "z"), (3, 16, 16))
    assert not teacher.network.training
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    normalised = (images / 255 - torch.tensor(ENTRY.mean).view(3, 1, 1)) / 0.25
    assert torch.allclose(teacher.network(teacher.normalise(images)), network.eval()(normalised), atol=1e-5)
    assert torch.allclose(teacher.features(images), network.backbone(normalised), atol=1e-5)


def test_the_card_holds_what_is_known(written):
    folder, _ = written
    assert artifacts.read_json(folder / "c") == {
        "name": "t",
        "architecture": {"name": "conv4_strided", "width": 8},
        "input": [3, 16, 16],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.25, 0.25, 0.25],
        "classes": ["x", "y", "z"],
        "source": "made here",
        "sha256": "ab",
        "licence": "CC0",
        "accuracy": {"mean": 0.5, "n": 10},
    }


def test_a_seed_decides_an_empty_network_head_included():
    first, second, other = (empty_network(ENTRY, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_damage_is_the_users_to_mend(written):
    folder, _ = written
    with pytest.raises(UserError, match="missing"):
        read_teacher(folder / "absent", folder / "c")
    with pytest.raises(UserError, match="missing"):
        read_teacher(folder / "w", folder / "absent")
    card = artifacts.read_json(folder / "c")
    artifacts.write_json(folder / "c", {**card, "classes": ["x", "y"]})
    with pytest.raises(UserError, match="w: `head.*` has shape"):
        read_teacher(folder / "w", folder / "c")


def test_teachers_are_read_in_pairs_and_moved_without_a_change(written):
    folder, _ = written
    (teacher,) = read_teachers([folder / "w"], [folder / "c"])
    moved = move(teacher, "cpu")
    assert dataclasses.asdict(moved).keys() == dataclasses.asdict(teacher).keys()
    assert (moved.name, moved.classes, moved.input) == (teacher.name, teacher.classes, teacher.input)
    with pytest.raises(ValueError, match="shorter"):
        read_teachers([folder / "w"], [])


def test_one_input_is_common_or_there_is_none(teachers):
    assert common_input(teachers) == (3, 32, 32)
    with pytest.raises(UserError, match="zoo.manifest: the teachers expect different inputs, .*3, 16, 16.*3, 32, 32"):
        common_input([*teachers, dataclasses.replace(teachers[0], input=(3, 16, 16))])


def test_the_common_normalisation_is_the_average_per_channel():
    mean, std = common_normalisation([{"mean": [0, 0.2], "std": [1, 2]}, {"mean": [1, 0.4], "std": [3, 2]}])
    assert mean == pytest.approx([0.5, 0.3])
    assert std == [2, 2]
