import dataclasses
import re

import pytest
import torch

from datafree import artifacts
from datafree.errors import UserError
from datafree.stages.files.teachers import read_teacher
from datafree.zoo.manifest import Architecture, Entry, TrainSource
from datafree.zoo.teachers import common_normalisation, empty_network, load_checkpoint, make_card, move
from datafree.zoo.torchvision_guard import import_torchvision

ENTRY = Entry(
    name="t", architecture=Architecture("conv4_strided", 8), train=TrainSource(), input=[3, 16, 16], mean=[0.1, 0.2, 0.3], licence="CC0"
)


@pytest.fixture
def written(tmp_path):
    network = empty_network(ENTRY, 3, seed=4)
    artifacts.write_tensors(tmp_path / "w", network.state_dict())
    artifacts.write_json(tmp_path / "c", make_card(ENTRY, ["x", "y", "z"], "made here", "ab", {"mean": 0.5, "n": 10}))
    return tmp_path, network


def test_a_teacher_is_read_frozen(written):
    folder, network = written
    teacher = read_teacher(folder / "w", folder / "c")
    assert (teacher.name, teacher.classes, teacher.input) == ("t", ("x", "y", "z"), (3, 16, 16))
    assert not teacher.network.training
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    normalised = (images / 255 - torch.tensor(ENTRY.mean).view(3, 1, 1)) / 0.25
    assert torch.allclose(teacher.network(teacher.normalise(images)), network.eval()(normalised), atol=1e-5)
    assert torch.allclose(teacher.features(images), network.backbone(normalised), atol=1e-5)


def test_the_card_describes_the_teacher(written):
    folder, _ = written
    assert artifacts.read_json(folder / "c") == {
        "name": "t",
        "architecture": {"name": "conv4_strided", "width": 8},
        # Four blocks of conv3x3, on 16, 8, 4 and 2 pixels after the strided one; a head of 8 features and 3 classes.
        "parameters": (3 * 8 + 3 * 8 * 8) * 9 + 4 * 3 * 8 + 8 * 3 + 3,
        "macs": 8 * 9 * (3 * 8 * 8 + 8 * (8 * 8 + 4 * 4 + 2 * 2)) + 8 * 3,
        "batch_norm_layers": 4,
        "input": [3, 16, 16],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.25, 0.25, 0.25],
        "classes": ["x", "y", "z"],
        "source": "made here",
        "sha256": "ab",
        "licence": "CC0",
        "accuracy": {"mean": 0.5, "n": 10},
    }


def test_the_card_holds_the_width_and_the_number_of_batch_norm_layers():
    card = make_card(Entry(name="t", architecture=Architecture("resnet20", 16)), ["x", "y"], "", "", None)
    assert (card["architecture"], card["batch_norm_layers"]) == ({"name": "resnet20", "width": 16}, 19)
    card = make_card(Entry(name="t", architecture=Architecture("torchvision/convnext_tiny")), ["x", "y"], "", "", None)
    assert (card["architecture"], card["batch_norm_layers"]) == ({"name": "torchvision/convnext_tiny", "width": 0}, 0)


def test_an_input_that_the_architecture_cannot_process_is_refused_by_make_card():
    with pytest.raises(UserError, match=r"^t: input: torchvision/alexnet cannot process images of \[3, 32, 32\] \(") as caught:
        make_card(Entry(name="t", architecture=Architecture("torchvision/alexnet")), ["x", "y"], "", "", None)
    assert "\n" not in str(caught.value)


# ---- foreign checkpoints ----------------------------------------------------------------------------------------------------------------


def saved(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def foreign(network):
    return {name.removeprefix("backbone.").replace("head", "classifier"): value for name, value in network.state_dict().items()}


def test_keys_rename_the_tensors_of_a_foreign_checkpoint(tmp_path):
    network = empty_network(ENTRY, 3, seed=4)
    entry = dataclasses.replace(ENTRY, keys={"classifier": "head", "": "backbone"})
    loaded = load_checkpoint(entry, saved(tmp_path, {"state_dict": foreign(network)}), 3)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded.eval()(images), network.eval()(images))


@pytest.mark.parametrize(
    ("change", "classes", "message"),
    [
        (lambda state: state, 4, "the checkpoint has 3 classes, the manifest names 4; correct `classes`"),
        (
            lambda state: {**state, "head.weight": torch.ones(3, 5)},
            3,
            r"`head.weight` has shape \[3, 5\], the architecture expects \[3, 8\]",
        ),
        (lambda state: {**state, "head.weight": torch.ones(24)}, 3, r"`head.weight` has shape \[24\]"),
        (lambda state: {k: v for k, v in state.items() if k != "head.bias"}, 3, "1 tensors missing, first `head.bias`"),
        (lambda state: {**state, "backbone.x": torch.ones(1)}, 3, "1 unexpected tensors, first `backbone.x`"),
        (
            lambda state: {k: v * torch.nan if v.is_floating_point() else v for k, v in state.items()},
            3,
            "`backbone.* holds NaN or infinity",
        ),
        (
            lambda state: {f"net.{k}": v for k, v in state.items()},
            3,
            r"its tensors have other names, such as `net.backbone.*`, than conv4_strided, such as .*; give `keys` in the manifest",
        ),
    ],
)
def test_a_checkpoint_that_does_not_match_is_a_one_line_error(tmp_path, change, classes, message):
    path = saved(tmp_path, change(empty_network(ENTRY, 3).state_dict()))
    with pytest.raises(UserError, match=f"w.pth: {message}") as caught:
        load_checkpoint(ENTRY, path, classes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["resnet18", "mnasnet0_5", "densenet121", "googlenet"])
def test_a_torchvision_checkpoint_needs_no_keys(tmp_path, name):
    options = {"init_weights": False} if name == "googlenet" else {}
    theirs = import_torchvision().models.get_model(name, num_classes=5, **options).eval()
    state = theirs.state_dict()
    if name == "densenet121":  # the published files have older names
        state = {re.sub(r"(norm|conv)([12])\.(?!.*layer)", r"\1.\2.", key) if "denselayer" in key else key: v for key, v in state.items()}
        assert "features.denseblock1.denselayer1.norm.1.weight" in state
    entry = Entry(name="t", architecture=Architecture(f"torchvision/{name}"), input=[3, 64, 64])
    loaded = load_checkpoint(entry, saved(tmp_path, state), 5).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(images)
        assert torch.allclose(loaded(images), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    # The file that this project saves is read without renaming.
    again = load_checkpoint(entry, saved(tmp_path, loaded.state_dict()), 5).eval()
    with torch.no_grad():
        assert torch.equal(again(images), loaded(images))


def test_a_teacher_without_batch_norm_is_read(tmp_path):
    entry = Entry(name="t", architecture=Architecture("torchvision/convnext_tiny"))
    network = empty_network(entry, 2, seed=1)
    artifacts.write_tensors(tmp_path / "w", network.state_dict())
    artifacts.write_json(tmp_path / "c", make_card(entry, ["x", "y"], "s", "ab", None))
    teacher = read_teacher(tmp_path / "w", tmp_path / "c")
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(teacher.network(teacher.normalise(images)), network.eval()(teacher.normalise(images)))


def test_the_seed_determines_an_empty_network_including_its_head():
    first, second, other = (empty_network(ENTRY, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_damaged_files_are_user_errors(written):
    folder, _ = written
    with pytest.raises(UserError, match="missing"):
        read_teacher(folder / "absent", folder / "c")
    with pytest.raises(UserError, match="missing"):
        read_teacher(folder / "w", folder / "absent")
    card = artifacts.read_json(folder / "c")
    artifacts.write_json(folder / "c", {**card, "classes": ["x", "y"]})
    with pytest.raises(UserError, match="w: `head.*` has shape"):
        read_teacher(folder / "w", folder / "c")


def test_a_moved_teacher_is_unchanged(written):
    folder, _ = written
    teacher = read_teacher(folder / "w", folder / "c")
    moved = move(teacher, "cpu")
    assert dataclasses.asdict(moved).keys() == dataclasses.asdict(teacher).keys()
    assert (moved.name, moved.classes, moved.input) == (teacher.name, teacher.classes, teacher.input)


def test_the_common_normalisation_is_the_average_per_channel():
    mean, std = common_normalisation([{"mean": [0, 0.2], "std": [1, 2]}, {"mean": [1, 0.4], "std": [3, 2]}])
    assert mean == pytest.approx([0.5, 0.3])
    assert std == [2, 2]


def test_the_normalisation_of_a_grey_teacher_counts_for_every_channel():
    mean, std = common_normalisation([{"mean": [0.5], "std": [1]}, {"mean": [0.1, 0.3, 0.5], "std": [3, 1, 2]}])
    assert mean == pytest.approx([0.3, 0.4, 0.5])
    assert std == [2, 1, 1.5]
