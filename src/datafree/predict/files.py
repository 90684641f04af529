"""Files of trained learners and of few-shot classifiers: one safetensors file each, complete and without code.

A file holds the network (``backbone.*``, ``heads.*``), the representations of recovered images (``negatives``), and of a classifier what it
learned (``support``, ``labels``, ``centre``, ``means``, ``reference``, ``directions``). Its metadata are JSON: ``format``, ``version``,
``card``, ``mirrored``, ``join_weights``, and of a classifier ``classes``, ``temperature``, ``threshold`` and ``basis``.
"""

from __future__ import annotations

import json
import math
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
from datafree.predict.network import RepresentationNetwork, TrainedLearner
from datafree.zoo import loading
from datafree.zoo.backbones import Normalise

LEARNER, CLASSIFIER = "datafree-learner", "datafree-classifier"
VERSION = 1
SUFFIX = ".safetensors"
LEARNED = ("support", "labels", "centre", "means", "reference", "directions")  # tensors of a classifier
LARGEST_IMAGE, MOST_TEACHERS = 1024, 100_000  # pixels of a side; heads
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
    classes, (size,) = metadata["classes"], learned["centre"].shape or (0,)
    shapes = {
        "support": (len(learned["labels"]), size),
        "means": (len(classes), size),
        "reference": (size,),
        "directions": (len(classes), size),
    }
    for name, shape in shapes.items():
        if tuple(learned[name].shape) != shape or not learned[name].is_floating_point():
            raise UserError(f"{path}: `{name}` has shape {list(learned[name].shape)}, expected {list(shape)}; make the file again")
        if not torch.isfinite(learned[name]).all():
            raise UserError(f"{path}: `{name}` holds NaN or infinity; the file is damaged")
    if reason := _inconsistent(metadata, learned["labels"], size, learner.negatives):
        raise UserError(f"{path}: {reason}; make the file again")
    values = {key: metadata[key] for key in ("temperature", "threshold", "basis")}
    return learner, FewShotClassifier(**learned, negatives=learner.negatives, **values), classes


def _inconsistent(metadata: dict[str, Any], labels: Tensor, size: int, negatives: Tensor) -> str:
    """What is wrong with the values of a classifier whose representations have ``size`` numbers; empty if nothing is."""
    classes, temperature, threshold = (metadata[key] for key in ("classes", "temperature", "threshold"))
    if len(classes) < 2 or len(set(map(str, classes))) < len(classes) or not all(isinstance(name, str) for name in classes):
        return "`classes`: expected at least two different names"
    if not 0 < temperature < math.inf or (threshold is not None and not math.isfinite(threshold)):
        return f"`temperature`, `threshold`: expected a number above 0, and a number or null; got {temperature} and {threshold}"
    if labels.dtype != torch.int64 or sorted(labels.unique().tolist()) != list(range(len(classes))):
        return f"`labels`: expected int64 from 0 to {len(classes) - 1}, each of them"
    return "" if size == negatives.shape[1] else f"`centre` has {size} values, the network's representations have {negatives.shape[1]}"


def is_classifier(path: Path) -> bool:
    """Whether there is a classifier's file, sound or not, at a path."""
    if path.suffix != SUFFIX or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return (file.metadata() or {}).get("format") == json.dumps(CLASSIFIER)
    except Exception:  # damaged headers can make the reader fail with any type of exception
        return False


def _tensors(learner: TrainedLearner) -> dict[str, Tensor]:
    network = learner.network
    tensors = {f"backbone.{name}": value for name, value in network.backbone.state_dict().items()}
    if network.heads is not None:
        tensors |= {f"heads.{name}": value for name, value in network.heads.state_dict().items()}
    return {**tensors, "negatives": learner.negatives}


def _metadata(learner: TrainedLearner) -> dict[str, Any]:
    return {"card": dict(learner.card), "mirrored": learner.network.mirrored, "join_weights": list(learner.network.weights)}


def _learner(path: Path, metadata: dict[str, Any], tensors: dict[str, Tensor]) -> TrainedLearner:
    card = metadata["card"]
    try:
        _check_size(card, tensors)
        backbone, normalise = from_card(card), Normalise(card["mean"], card["std"], card["input"])
        counts, weights = list(card["teacher_classes"]), JoinWeights(*map(float, metadata["join_weights"]))
    except (KeyError, TypeError, ValueError, IndexError, UserError) as error:
        raise UserError(f"{path}: its card describes no network ({type(error).__name__}: {error}); make the file again") from None
    loading.fill(backbone, _part(tensors, "backbone."), path)
    heads = _heads(backbone.feature_size, counts, bool(card.get("teacher")), _part(tensors, "heads."))
    if heads is not None:
        loading.fill(heads, _part(tensors, "heads."), path)
    network = RepresentationNetwork(backbone, normalise, heads, weights, mirrored=metadata["mirrored"])
    with torch.no_grad():
        size = network(torch.zeros(1, *card["input"])).shape[1]
    negatives = tensors.get("negatives", torch.empty(0))
    if negatives.dim() != 2 or negatives.shape[1] != size or not torch.isfinite(negatives).all():
        raise UserError(f"{path}: `negatives` has shape {list(negatives.shape)}, expected [any, {size}]; make the file again")
    return TrainedLearner(network, negatives.float(), card)


def _check_size(card: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Refuse a card that describes a network much larger than the file: it would fill the memory before it is compared with the tensors.

    Raises:
        ValueError, KeyError, TypeError: it does, or is no card.
    """
    of_backbone = _part(tensors, "backbone.")
    longest = max((max(value.shape, default=1) for value in tensors.values()), default=0)
    channels, height, width = card["input"]
    for name, value, most in (
        ("channels", channels, 3),
        ("height", height, LARGEST_IMAGE),
        ("backbone.width", card["backbone"]["width"] or 1, longest),
        ("backbone.cells", card["backbone"]["cells"], len(of_backbone)),
        ("teachers", len(card["teacher_classes"]) or 1, MOST_TEACHERS),
        ("teacher_classes", max(card["teacher_classes"], default=1) or 1, longest),
    ):
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"{name}: got {value}, expected 1 to {most}")
    if height != width:
        raise ValueError(f"input: got {card['input']}, expected a square")
    if len(card["mean"]) != channels or len(card["std"]) != channels or not all(0 < value < math.inf for value in card["std"]):
        raise ValueError("mean, std: expected a number per channel, std above 0")


def _heads(features: int, counts: list[int], teacher: bool, tensors: dict[str, Tensor]) -> TeacherHeads | nn.Linear | None:
    """Untrained heads for ``counts`` classes: of a learner, or the one head of a teacher; None if there are no ``tensors`` of heads."""
    if not tensors:
        return None
    if teacher:
        return nn.Linear(features, counts[0], bias="bias" in tensors)
    return TeacherHeads(features, counts, shared=len(tensors.get("bias", ())) < len(counts))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


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
