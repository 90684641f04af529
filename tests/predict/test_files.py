import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from datafree.config import BackboneConfig
from datafree.errors import UserError
from datafree.predict import files
from datafree.predict.classifier import fit
from datafree.zoo.backbones import BACKBONES, build, parameter_count

IMAGES = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 1])


def written(path, learner):
    classifier = fit(learner.represent(IMAGES), LABELS, 3, learner.negatives)
    files.write_classifier(path, learner, classifier, ["a", "b", "c"])
    return classifier


def change(path, tensors=None, **metadata):
    """Rewrite a file with other tensors or metadata; None removes."""
    with safe_open(path, "pt") as file:
        header = file.metadata()
    kept = load_file(path)
    for name, value in (tensors or {}).items():
        kept.pop(name)
        if value is not None:
            kept[name] = value
    for name, value in metadata.items():
        header.pop(name)
        if value is not None:
            header[name] = json.dumps(value)
    save_file(kept, path, header)


@pytest.mark.parametrize("heads", [{"heads": False}, {"heads": True}, {"shared": True}], ids=str)
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_learner_is_read_as_it_was_written(variants, tmp_path, heads, mirrored):
    learner = variants(**heads, mirrored=mirrored)
    files.write_learner(tmp_path / "l.safetensors", learner)
    read = files.read_learner(tmp_path / "l.safetensors")
    assert torch.equal(read.represent(IMAGES), learner.represent(IMAGES))
    assert torch.equal(read.negatives, learner.negatives)
    assert read.card == learner.card
    assert read.image_size == 16


def test_networks_side_by_side_are_read_as_they_were_written(group, tmp_path):
    files.write_learner(tmp_path / "l.safetensors", group)
    read = files.read_learner(tmp_path / "l.safetensors")
    assert torch.equal(read.represent(IMAGES), group.represent(IMAGES))
    assert read.card == group.card
    classifier = written(tmp_path / "c.safetensors", group)
    again, read_classifier, _ = files.read_classifier(tmp_path / "c.safetensors")
    assert torch.equal(read_classifier.logits(again.represent(IMAGES)), classifier.logits(group.represent(IMAGES)))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (None, "`members` of its card: expected a list of cards"),
        ([], "`members` of its card: expected a list of cards"),
        ([5], "`members` of its card: expected a list of cards"),
        ([{}], "its card describes no network .KeyError: 'input'"),
        (1, r"`input` of its card is \[3, 20, 20\], expected \[3, 16, 16\]"),
        (3, "its card describes no network .ValueError: backbone.cells"),
    ],
    ids=str,
)
def test_damaged_cards_of_networks_side_by_side_give_one_line(group, tmp_path, members, message):
    path = tmp_path / "l.safetensors"
    files.write_learner(path, group)
    weights = [[1.0, 1.0]] * (members if isinstance(members, int) else 1)
    if isinstance(members, int):
        members = (group.card["members"] * 2)[:members]
    change(path, card={**group.card, "members": members}, join_weights=weights)
    with pytest.raises(UserError, match=message):
        files.read_learner(path)
    files.write_learner(path, group)
    change(path, join_weights=[1.0, 1.0, 1.0])
    with pytest.raises(UserError, match="expected a list of cards, with `join_weights` for each"):
        files.read_learner(path)
    change(path, join_weights=[1.0, [1.0, 1.0]])
    with pytest.raises(UserError, match="its card describes no network"):
        files.read_learner(path)
    files.write_learner(path, group)
    change(path, card={**group.card, "input": [3, 9, 9]})
    with pytest.raises(UserError, match=r"`input` of its card is \[3, 9, 9\], expected \[3, 20, 20\]"):
        files.read_learner(path)


def test_a_classifier_is_read_as_it_was_written(learner, tmp_path):
    classifier = written(tmp_path / "c.safetensors", learner)
    again, read, classes = files.read_classifier(tmp_path / "c.safetensors")
    queries = learner.represent(IMAGES)
    assert classes == ["a", "b", "c"]
    assert torch.equal(read.logits(queries), classifier.logits(queries))
    assert torch.equal(read.similarity(queries), classifier.similarity(queries))
    assert (read.threshold, read.basis, read.temperature) == (classifier.threshold, classifier.basis, classifier.temperature)
    assert torch.equal(again.represent(IMAGES), queries)
    assert torch.equal(files.read_learner(tmp_path / "c.safetensors").represent(IMAGES), queries)


def test_the_same_classifier_gives_the_same_bytes(learner, tmp_path):
    for name in ("a", "b"):
        written(tmp_path / f"{name}.safetensors", learner)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("change_of", "message"),
    [
        ({"format": "another"}, "expected a classifier, as `datafree adapt` writes it, found another"),
        ({"format": files.LEARNER}, "expected a classifier, as `datafree adapt` writes it, found datafree-learner"),
        ({"version": 2}, "is of version 2, this datafree reads version 1; make the file again, or use the datafree that wrote it"),
        ({"classes": None}, "its metadata lack `classes` or hold another type"),
        ({"temperature": "warm"}, "its metadata lack `temperature` or hold another type"),
        ({"card": {"backbone": {"name": "conv4"}, "input": [3, 16, 16]}}, "its card describes no network .KeyError: 'width'"),
        ({"card": {}}, "its card describes no network .KeyError: 'input'"),
        ({"classes": ["a"]}, r"`means` is float32 \[3, 17\], expected float32 \[1, 17\]"),
        ({"join_weights": [1]}, "its card describes no network"),
        ({"tensors": {"support": None}}, "has no tensor `support`"),
        ({"tensors": {"negatives": torch.zeros(4, 7)}}, r"`negatives` has shape \[4, 7\], expected \[any, 17\]"),
        ({"tensors": {"backbone.blocks.0.norm.bias": torch.full((8,), torch.nan)}}, "holds NaN or infinity"),
        ({"temperature": 1e-300}, "`temperature`, `threshold`: expected a number above 0"),
        ({"temperature": 0.0}, "`temperature`, `threshold`: expected a number above 0"),
        ({"temperature": float("nan")}, "`temperature`, `threshold`: expected a number above 0"),
        ({"threshold": float("inf")}, "`temperature`, `threshold`: expected"),
        ({"classes": ["a", "a", "b"]}, "`classes`: expected at least two different names"),
        ({"classes": ["a", 1, "b"]}, "`classes`: expected at least two different names"),
        ({"tensors": {"labels": LABELS + 1}}, "`labels`: expected 0 to 2, each of them"),
        ({"tensors": {"labels": LABELS.float()}}, r"`labels` is float32 \[9\], expected int64 \[9\]"),
        ({"tensors": {"labels": torch.tensor(1)}}, r"`labels` is int64 \[\], expected int64 \[1\]"),
        ({"tensors": {"centre": torch.zeros(2, 17)}}, r"`centre` is float32 \[2, 17\], expected float32 \[17\]"),
        ({"tensors": {"means": torch.zeros(3, 17, dtype=torch.float16)}}, r"`means` is float16 \[3, 17\], expected float32"),
        ({"join_weights": [float("nan"), 1]}, "its card describes no network .ValueError: join_weights"),
        ({"tensors": {"means": torch.full((3, 17), torch.nan)}}, "`means` holds NaN or infinity"),
    ],
)
def test_a_file_that_is_no_sound_classifier_is_refused(learner, tmp_path, change_of, message):
    path = tmp_path / "c.safetensors"
    written(path, learner)
    change(path, **change_of)
    with pytest.raises(UserError, match=message):
        files.read_classifier(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": [3, 10**6, 10**6]}, "height: got 1000000, expected 0 to 1024"),
        ({"input": [3, 16, 20]}, "expected a square"),
        ({"input": [10**6, 16, 16]}, "channels: got 1000000, expected 0 to 3"),
        ({"backbone": {"name": "conv4", "width": 10**6, "genotype": None, "cells": 1}}, "backbone.width: got 1000000"),
        (
            {"backbone": {"name": "conv4", "width": 4096, "genotype": None, "cells": 1}},
            "has shape .8., the architecture expects .4096",
        ),
        ({"backbone": {"name": "conv4", "width": 0, "genotype": None, "cells": 1}}, "backbone.width: got 0"),
        ({"backbone": {"name": "nasbench201", "width": 8, "genotype": None, "cells": 1}}, "AssertionError"),
        ({"backbone": {"name": "torchvision/vit_h_14", "width": 0, "genotype": None, "cells": 1}}, "tensors missing|cannot|takes"),
        ({"teacher_classes": [5] * 90_000}, "`bias` has shape|`weight` has shape"),
        ({"teacher_classes": []}, "max"),
        ({"teacher": "x", "teacher_classes": []}, "IndexError"),
        ({"backbone": {"name": "conv4", "width": 8, "genotype": None, "cells": 10**6}}, "backbone.cells: got 1000000"),
        ({"teacher_classes": [10**9]}, "teacher_classes: got 1000000000"),
        ({"teacher_classes": [1.5]}, "teacher_classes: got 1.5"),
        ({"std": [0, 1, 1]}, "mean, std: expected a number per channel, std above 0"),
        ({"mean": [0.5]}, "mean, std: expected a number per channel"),
    ],
)
def test_a_card_of_a_much_larger_network_is_refused_before_it_is_built(learner, tmp_path, changes, message):
    path = tmp_path / "c.safetensors"
    written(path, learner)
    change(path, card={**learner.card, **changes})
    with pytest.raises(UserError, match=f"its card describes (no|another) network .*({message})"):
        files.read_classifier(path)


@pytest.mark.parametrize("name", [name for name in BACKBONES if "/" not in name])
def test_the_bound_of_a_networks_size_holds_for_every_architecture(name):
    for size in (32, 128):
        backbone = build(BackboneConfig(name, 16), 3, size, 0)
        assert parameter_count(backbone) <= files.PER_WIDTH * 16**2
        assert backbone.feature_size <= files.most_features(16, size)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 200])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "c.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"c.safetensors: expected a classifier.*not readable as safetensors"):
        files.read_classifier(tmp_path / "c.safetensors")


def test_a_truncated_file_is_refused(learner, tmp_path):
    written(tmp_path / "c.safetensors", learner)
    content = (tmp_path / "c.safetensors").read_bytes()
    (tmp_path / "c.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="not readable"):
        files.read_classifier(tmp_path / "c.safetensors")


def test_a_missing_file_and_a_file_of_other_tensors_are_refused(tmp_path):
    with pytest.raises(UserError, match="none.safetensors: no such file; expected a learner or a classifier"):
        files.read_learner(tmp_path / "none.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="expected a learner or a classifier, found another safetensors file"):
        files.read_learner(tmp_path / "x.safetensors")
