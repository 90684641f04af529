"""Files of trained learners and of few-shot classifiers: one safetensors file each, complete and without code.

A file holds the network (``backbone.*``, ``heads.*``; of several side by side ``members.0.backbone.*`` and so on), the representations of
recovered images (``negatives``), and of a classifier what it learned (``support``, ``labels``, ``centre``, ``means``, ``reference``,
``directions``). Its metadata are JSON: ``format``, ``version``, ``card``, ``mirrored``, ``join_weights``, and of a classifier ``classes``,
``temperature``, ``threshold`` and ``basis``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from datafree import artifacts
from datafree.distillation.heads import TeacherHeads
from datafree.errors import UserError
from datafree.evaluation.representations import JoinWeights
from datafree.nas.networks import from_card
from datafree.predict.classifier import FewShotClassifier
from datafree.predict.network import RepresentationNetwork, SideBySide, TrainedLearner
from datafree.zoo import loading
from datafree.zoo.backbones import Normalise

LEARNER, CLASSIFIER = "datafree-learner", "datafree-classifier"
VERSION = 1
SUFFIX = ".safetensors"
LEARNED = ("support", "labels", "centre", "means", "reference", "directions")  # tensors of a classifier
LARGEST_IMAGE, LARGEST_WIDTH, MOST_TEACHERS = 1024, 4096, 100_000  # pixels of a side; channels; heads
SMALL = 64_000_000  # values
PER_WIDTH = 7_000  # upper bound for the architectures of this project: parameters over the square of the width; ResNet-110 has 6,750
KEYS = {"card": dict, "mirrored": bool, "join_weights": list}
CLASSIFIER_KEYS = {"classes": list, "temperature": float, "threshold": (float, type(None)), "basis": str}


def write_learner(path: Path, learner: TrainedLearner) -> None:
    """Write a learner that ``read_learner`` reads."""
    artifacts.write_tensors(path, _tensors(learner), format=LEARNER, version=VERSION, **_metadata(learner))


def write_classifier(path: Path, learner: TrainedLearner, classifier: FewShotClassifier, classes: list[str]) -> None:
    """Write a classifier of ``classes``, with the learner that computes its representations."""
    tensors = {**_tensors(learner), **{name: getattr(classifier, name) for name in LEARNED}}
    learned: dict[str, Any] = {key: getattr(classifier, key) for key in CLASSIFIER_KEYS if key != "classes"}
    artifacts.write_tensors(path, tensors, format=CLASSIFIER, version=VERSION, **_metadata(learner), **learned, classes=classes)


def read_learner(path: Path) -> TrainedLearner:
    """The learner in a file of either kind.

    Raises:
        UserError: the file is missing, damaged, too large, of another kind or of another version.
    """
    return _learner(path, _read_metadata(path, LEARNER, CLASSIFIER), loading.read_state_dict(path))


def read_classifier(path: Path) -> tuple[TrainedLearner, FewShotClassifier, list[str]]:
    """A classifier with its learner and the names of its classes.

    Raises:
        UserError: as ``read_learner``.
    """
    metadata = _read_metadata(path, CLASSIFIER)
    tensors = loading.read_state_dict(path)
    learner = _learner(path, metadata, tensors)
    if missing := [name for name in LEARNED if name not in tensors]:
        raise UserError(f"{path}: has no tensor `{missing[0]}`; make the file again with `datafree adapt`")
    learned = {name: tensors[name] for name in LEARNED}
    classes, images, size = metadata["classes"], learned["labels"].numel(), learner.negatives.shape[1]
    shapes = {
        "labels": [images],
        "support": [images, size],
        "centre": [size],
        "means": [len(classes), size],
        "reference": [size],
        "directions": [len(classes), size],
    }
    for name, shape in shapes.items():
        value, dtype = learned[name], torch.int64 if name == "labels" else torch.float32
        if list(value.shape) != shape or value.dtype != dtype:
            got = f"{value.dtype} {list(value.shape)}".removeprefix("torch.")
            raise UserError(f"{path}: `{name}` is {got}, expected {str(dtype).removeprefix('torch.')} {shape}; make the file again")
        if not torch.isfinite(learned[name]).all():
            raise UserError(f"{path}: `{name}` holds NaN or infinity; the file is damaged")
    if reason := _inconsistent(metadata, learned["labels"]):
        raise UserError(f"{path}: {reason}; make the file again")
    values = {key: metadata[key] for key in ("temperature", "threshold", "basis")}
    return learner, FewShotClassifier(**learned, negatives=learner.negatives, **values), classes


def _inconsistent(metadata: dict[str, Any], labels: Tensor) -> str:
    """What is wrong with the values of a classifier; empty if nothing is."""
    classes, temperature, threshold = (metadata[key] for key in ("classes", "temperature", "threshold"))
    if len(classes) < 2 or len(set(map(str, classes))) < len(classes) or not all(isinstance(name, str) for name in classes):
        return "`classes`: expected at least two different names"
    if not 1e-6 < temperature < 1e6 or (threshold is not None and not math.isfinite(threshold)):
        return f"`temperature`, `threshold`: expected a number above 0, and a number or null; got {temperature} and {threshold}"
    if sorted(labels.unique().tolist()) != list(range(len(classes))):
        return f"`labels`: expected 0 to {len(classes) - 1}, each of them"
    return ""


def is_portable(path: Path, *formats: str) -> bool:
    """Whether there is a file of one of ``formats``, by default a learner's or a classifier's, at a path; sound or not."""
    if path.suffix != SUFFIX or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return (file.metadata() or {}).get("format", "") in [json.dumps(name) for name in formats or (LEARNER, CLASSIFIER)]
    except Exception:  # damaged headers can make the reader fail with any type of exception
        return False


def _tensors(learner: TrainedLearner) -> dict[str, Tensor]:
    tensors = {"negatives": learner.negatives}
    several = isinstance(learner.network, SideBySide)
    for place, network in enumerate(learner.members):
        prefix = _prefix(place) if several else ""
        tensors |= {f"{prefix}backbone.{name}": value for name, value in network.backbone.state_dict().items()}
        if network.heads is not None:
            tensors |= {f"{prefix}heads.{name}": value for name, value in network.heads.state_dict().items()}
    return tensors


def _prefix(place: int) -> str:
    """What the names of the tensors of one of several networks side by side begin with."""
    return f"members.{place}."


def _metadata(learner: TrainedLearner) -> dict[str, Any]:
    weights = [list(network.weights) for network in learner.members]
    alone = isinstance(learner.network, RepresentationNetwork)
    mirrored = learner.members[0].mirrored  # networks side by side agree in this
    return {"card": dict(learner.card), "mirrored": mirrored, "join_weights": weights[0] if alone else weights}


def _learner(path: Path, metadata: dict[str, Any], tensors: dict[str, Tensor]) -> TrainedLearner:
    card = metadata["card"]
    if "members" in card:
        network = _side_by_side(path, metadata, tensors)
    else:
        network = _network(path, card, metadata["join_weights"], tensors, mirrored=metadata["mirrored"])
    with torch.no_grad():
        size = network(torch.zeros(1, *card["input"])).shape[1]
    negatives = tensors.get("negatives", torch.empty(0))
    if negatives.dim() != 2 or negatives.shape[1] != size or not torch.isfinite(negatives.float()).all():
        raise UserError(f"{path}: `negatives` has shape {list(negatives.shape)}, expected [any, {size}]; make the file again")
    return TrainedLearner(network, negatives.float(), card)


def _side_by_side(path: Path, metadata: dict[str, Any], tensors: dict[str, Tensor]) -> SideBySide:
    card = metadata["card"]
    cards, shape, weights, mirrored = card["members"], card.get("input"), metadata["join_weights"], metadata["mirrored"]
    if not isinstance(cards, list) or not cards or not all(isinstance(member, dict) for member in cards) or len(weights) != len(cards):
        raise UserError(f"{path}: `members` of its card: expected a list of cards, with `join_weights` for each; make the file again")
    members = [
        _network(path, member, weights[place], loading.part(tensors, _prefix(place)), mirrored=mirrored)
        for place, member in enumerate(cards)
    ]
    if shape != (expected := largest_input(cards)):
        raise UserError(f"{path}: `input` of its card is {shape}, expected {expected}; make the file again")
    return SideBySide(members)


def largest_input(cards: Sequence[Mapping[str, Any]]) -> list[int]:
    """The shape [C, H, W] of images for networks side by side, which convert them to their own: the largest of their ``input``."""
    return [max(sides) for sides in zip(*(card["input"] for card in cards), strict=True)]


def _network(path: Path, card: dict[str, Any], join_weights: Any, tensors: dict[str, Tensor], *, mirrored: bool) -> RepresentationNetwork:
    """One network from its card and its tensors."""
    try:
        _check_card(card, tensors)
        weights = JoinWeights(*map(float, join_weights))
        if not all(map(math.isfinite, weights)):
            raise ValueError(f"join_weights: got {list(weights)}")
        if _may_be_large(card):
            with torch.device("meta"):  # takes no memory: what the card describes is compared with the tensors before it is built
                for part, module in _modules(card, tensors).items():
                    loading.fill(module, loading.part(tensors, f"{part}."), path)
        modules = _modules(card, tensors)
        normalise = Normalise(card["mean"], card["std"], card["input"])
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ").partition(";")[0]
        raise UserError(f"{path}: its card describes another network ({reason}); make the file again") from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, AssertionError, RuntimeError, OverflowError) as error:
        raise UserError(f"{path}: its card describes no network ({type(error).__name__}: {error}); make the file again") from None
    for part, module in modules.items():
        loading.fill(module, loading.part(tensors, f"{part}."), path)
    return RepresentationNetwork(modules["backbone"], normalise, modules.get("heads"), weights, mirrored=mirrored)


def _may_be_large(card: dict[str, Any]) -> bool:
    """Whether the network of a card could take more than ``SMALL`` values: an upper bound, without building anything.

    The comparison on the meta device costs seconds for PyTorch's imports, so it is left to these.
    """
    backbone, counts = card["backbone"], card["teacher_classes"]
    of_heads = len(counts) * max(counts, default=0) * most_features(backbone["width"], card["input"][1])
    return "/" in backbone["name"] or max(PER_WIDTH * backbone["cells"] * backbone["width"] ** 2, of_heads) > SMALL


def most_features(width: int, image_size: int) -> int:
    """An upper bound for the features of the architectures of this project; a Conv4 has the most, MobileNetV2 at least 1280."""
    return max(1280, (25 + (image_size // 16) ** 2) * width)


def _modules(card: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The untrained ``backbone`` of a card, and its ``heads`` if there are tensors of heads: of a learner, or the one head of a teacher."""
    backbone, of_heads, counts = from_card(card), loading.part(tensors, "heads."), card["teacher_classes"]
    if not of_heads:
        return {"backbone": backbone}
    if card.get("teacher"):
        return {"backbone": backbone, "heads": nn.Linear(backbone.feature_size, counts[0], bias="bias" in of_heads)}
    return {"backbone": backbone, "heads": TeacherHeads(backbone.feature_size, counts, shared=len(of_heads["weight"]) < len(counts))}


def _check_card(card: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Refuse a card whose network would take very long to build or to run.

    Raises:
        ValueError, KeyError, TypeError: it is one, or is no card.
    """
    channels, height, width = card["input"]
    for name, value, most in (
        ("channels", channels, 3),
        ("height", height, LARGEST_IMAGE),
        ("backbone.width", card["backbone"]["width"], LARGEST_WIDTH),
        ("backbone.cells", card["backbone"]["cells"], len(tensors)),
        ("teachers", len(card["teacher_classes"]), MOST_TEACHERS),
        *(("teacher_classes", count, MOST_TEACHERS) for count in card["teacher_classes"]),
    ):
        if type(value) is not int or not 0 <= value <= most:
            raise ValueError(f"{name}: got {value}, expected 0 to {most}")
    if not (card["backbone"]["width"] or "/" in card["backbone"]["name"]):  # models of libraries have no width
        raise ValueError("backbone.width: got 0")
    if ":" in card["backbone"]["name"]:
        raise ValueError("backbone.name: a model of a hub, which would be fetched")
    if height != width or not height or not channels:
        raise ValueError(f"input: got {card['input']}, expected a square")
    if len(card["mean"]) != channels or len(card["std"]) != channels or not all(0 < value < math.inf for value in card["std"]):
        raise ValueError("mean, std: expected a number per channel, std above 0")


def _read_metadata(path: Path, *formats: str) -> dict[str, Any]:
    """The metadata of a file of one of ``formats``, of this version.

    Raises:
        UserError: it is none.
    """
    wanted = "a learner or a classifier" if LEARNER in formats else "a classifier, as `datafree adapt` writes it"
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected {wanted}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
    except Exception as error:  # damaged headers can make the reader fail with any type of exception
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: expected {wanted}; the file is not readable as safetensors ({reason})") from None
    if metadata.get("format") not in formats:
        found = metadata.get("format")
        raise UserError(f"{path}: expected {wanted}, found {found if isinstance(found, str) else 'another safetensors file'}")
    if metadata.get("version") != VERSION:
        raise UserError(
            f"{path}: is of version {metadata.get('version')}, this datafree reads version {VERSION}; make the file again, or use the "
            "datafree that wrote it"
        )
    keys = KEYS | (CLASSIFIER_KEYS if metadata["format"] == CLASSIFIER else {})
    if wrong := [key for key, kind in keys.items() if not isinstance(metadata.get(key), kind)]:
        raise UserError(f"{path}: its metadata lack `{wrong[0]}` or hold another type; make the file again")
    return metadata
