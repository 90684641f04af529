"""A teacher: a frozen classifier with the card that says what it expects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datafree.config import BackboneConfig
from datafree.devices import seeded_initialisation
from datafree.errors import UserError
from datafree.zoo import loading
from datafree.zoo.backbones import Classifier, Normalise, batch_norm_layers, build, parameter_count
from datafree.zoo.manifest import Entry
from datafree.zoo.networks import multiply_adds


@dataclass(frozen=True)
class Teacher:
    """``network`` maps normalised float [B, *input] to logits [B, classes]; it is frozen and in evaluation mode.

    ``normalise`` takes images of any size and of one or three channels to what the network expects: teachers of one zoo may differ.
    """

    name: str
    network: Classifier
    normalise: Normalise
    classes: tuple[str, ...]
    input: tuple[int, int, int]

    def features(self, images: Tensor) -> Tensor:
        """Images in [0, 255], [B, C, H, W] of any size → [B, feature_size]."""
        return self.network.backbone(self.normalise(images))


def make_card(entry: Entry, classes: Sequence[str], source: str, sha256: str, accuracy: dict[str, Any] | None) -> dict[str, Any]:
    """What is known of a teacher, as it is stored in card.json; ``accuracy`` is {mean, n} on held-out images, or None.

    Without BatchNorm layers (``batch_norm_layers``: 0) an inversion loss on their statistics does not apply to the teacher.

    Raises:
        UserError: no architecture of that name, or one that cannot take the entry's input.
    """
    return {
        "name": entry.name,
        "architecture": {"name": entry.architecture.name, "width": entry.architecture.backbone().width},
        **_size(entry, len(classes)),
        "input": list(entry.input),
        "mean": list(entry.mean),
        "std": list(entry.std),
        "classes": list(classes),
        "source": source,
        "sha256": sha256,
        "licence": entry.licence,
        "accuracy": accuracy,
    }


def _size(entry: Entry, classes: int) -> dict[str, int]:
    """Parameters, multiply-adds for one image, and BatchNorm layers, of a network without values."""
    with torch.device("meta"):
        network = empty_network(entry, classes)
    try:
        macs = multiply_adds(network, entry.input)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{entry.name}: input: {entry.architecture.name} cannot take images of {entry.input} ({reason})") from None
    return {"parameters": parameter_count(network), "macs": macs, "batch_norm_layers": len(batch_norm_layers(network))}


def load_checkpoint(entry: Entry, path: Path, classes: int) -> Classifier:
    """The network of an entry with the weights of a checkpoint file, which may be foreign: see ``datafree.zoo.keys``.

    Raises:
        UserError: not a state dict, or not one of this architecture and number of classes.
    """
    network = empty_network(entry, classes)
    tensors = loading.read_state_dict(path)
    ours = all(name.startswith(("backbone.", "head.")) for name in tensors)
    rules = entry.keys or ({} if ours else network.backbone.foreign_keys)
    tensors = loading.rename(tensors, rules, path)
    wanted = network.state_dict()
    if not rules and not set(tensors) & set(wanted):
        raise UserError(
            f"{path}: its tensors have other names, such as `{next(iter(tensors))}`, than {entry.architecture.name}, such as "
            f"`{next(iter(wanted))}`; give `keys` in the manifest"
        )
    head = tensors.get("head.weight")
    if head is not None and head.dim() == 2 and head.shape[1] == network.head.in_features and len(head) != classes:
        raise UserError(f"{path}: the checkpoint has {len(head)} classes, the manifest names {classes}; correct `classes`")
    loading.fill(network, tensors, path)
    return network


def empty_network(entry_or_card: Entry | dict[str, Any], classes: int, seed: int = 0) -> Classifier:
    """An untrained network of a teacher's architecture."""
    if isinstance(entry_or_card, Entry):
        shape, config = entry_or_card.input, entry_or_card.architecture.backbone()
    else:
        shape = entry_or_card["input"]
        config = BackboneConfig(entry_or_card["architecture"]["name"], entry_or_card["architecture"]["width"])
    backbone = build(config, shape[0], shape[1], seed)
    with seeded_initialisation(seed):
        return Classifier(backbone, classes)


def common_normalisation(cards: Sequence[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Mean and std for a network that learns from all teachers, on images in three colours: the average of theirs, per channel.

    A grey teacher's one value counts for each colour.
    """
    coloured = {key: [card[key] * 3 if len(card[key]) == 1 else card[key] for card in cards] for key in ("mean", "std")}
    mean, std = ([sum(values) / len(cards) for values in zip(*coloured[key], strict=True)] for key in ("mean", "std"))
    return mean, std


def freeze(network: Classifier) -> Classifier:
    """Evaluation mode, no gradients: a teacher is never changed."""
    network.eval().requires_grad_(False)
    return network


def move(teacher: Teacher, device: Any) -> Teacher:
    return Teacher(teacher.name, teacher.network.to(device), teacher.normalise.to(device), teacher.classes, teacher.input)


@torch.no_grad()
def soft_labels(teacher: Teacher, images: Tensor, batch_size: int = 500) -> Tensor:
    """The teacher's probabilities float16 [N, classes] for uint8 images [N, C, H, W] of any size, on the CPU."""
    device = teacher.normalise.mean.device
    parts = [teacher.network(teacher.normalise(part.to(device))).float().softmax(1).cpu() for part in images.split(batch_size)]
    return torch.cat(parts).to(torch.float16)
