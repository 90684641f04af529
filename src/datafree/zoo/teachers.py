"""Teachers: frozen pretrained classifiers with their normalisation, their cards, and the loading of their checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from datafree import devices
from datafree.config import BackboneConfig
from datafree.errors import UserError
from datafree.zoo import loading
from datafree.zoo.backbones import Classifier, Normalise, batch_norm_layers, build, parameter_count
from datafree.zoo.manifest import Entry
from datafree.zoo.networks import multiply_adds


@dataclass(frozen=True)
class Teacher:
    """``network`` maps normalised float [B, *input] to logits [B, classes]; it is frozen and in evaluation mode.

    ``normalise`` converts images of any size and of one or three channels to the network's input, which differs between teachers.
    """

    name: str
    network: Classifier
    normalise: Normalise
    classes: tuple[str, ...]
    input: tuple[int, int, int]

    def features(self, images: Tensor) -> Tensor:
        """Features [B, feature_size] of images in [0, 255], [B, C, H, W] of any size."""
        return self.network.backbone(self.normalise(images))


class TeacherSequence(Sequence[Teacher]):
    """A sequence whose teachers come from ``at``, which need not hold them."""

    @abstractmethod
    def at(self, position: int) -> Teacher:
        """The teacher at a position that is not negative."""

    @overload
    def __getitem__(self, index: int) -> Teacher: ...

    @overload
    def __getitem__(self, index: slice) -> list[Teacher]: ...

    def __getitem__(self, index: int | slice) -> Teacher | list[Teacher]:
        chosen = range(len(self))[index]
        return self.at(chosen) if isinstance(chosen, int) else [self.at(position) for position in chosen]


def make_card(entry: Entry, classes: Sequence[str], source: str, sha256: str, accuracy: dict[str, Any] | None) -> dict[str, Any]:
    """The content of a teacher's card.json; ``accuracy`` is {mean, n} on held-out images, or None.

    If ``batch_norm_layers`` is 0, the inversion losses on BatchNorm statistics do not apply to the teacher.

    Raises:
        UserError: unknown architecture, or one that cannot process the entry's input.
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
    """Numbers of parameters, multiply-adds for one image, and BatchNorm layers, counted on the device "meta" without weights."""
    with torch.device("meta"):
        network = empty_network(entry, classes)
    try:
        macs = multiply_adds(network, entry.input)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{entry.name}: input: {entry.architecture.name} cannot process images of {entry.input} ({reason})") from None
    return {"parameters": parameter_count(network), "macs": macs, "batch_norm_layers": len(batch_norm_layers(network))}


def load_checkpoint(entry: Entry, path: Path, classes: int) -> Classifier:
    """The network of an entry with the weights of a checkpoint file; tensors of a foreign file are renamed, see ``datafree.zoo.keys``.

    Raises:
        UserError: not a state dict, or not of this architecture and number of classes.
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
    """A freshly initialised network of a teacher's architecture; the same ``seed`` gives the same weights."""
    if isinstance(entry_or_card, Entry):
        shape, config = entry_or_card.input, entry_or_card.architecture.backbone()
    else:
        shape, config = entry_or_card["input"], architecture(entry_or_card)
    backbone = build(config, shape[0], shape[1], seed)
    with devices.seeded_initialisation(seed):
        return Classifier(backbone, classes)


def architecture(card: dict[str, Any]) -> BackboneConfig:
    """The backbone of a teacher, from its card."""
    return BackboneConfig(card["architecture"]["name"], card["architecture"]["width"])


def common_normalisation(cards: Sequence[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Mean and std, per colour channel, for a network that learns from all teachers: the averages over the teachers' cards.

    The single value of a grey teacher counts for each of the three channels.
    """
    per_colour = {key: [card[key] * 3 if len(card[key]) == 1 else card[key] for card in cards] for key in ("mean", "std")}
    mean, std = ([sum(values) / len(cards) for values in zip(*per_colour[key], strict=True)] for key in ("mean", "std"))
    return mean, std


def freeze(network: Classifier) -> Classifier:
    """The network itself, in evaluation mode and without gradients: a teacher is never changed."""
    network.eval().requires_grad_(False)
    return network


def move(teacher: Teacher, device: Any) -> Teacher:
    """The teacher on another device; its modules are moved in place."""
    return Teacher(teacher.name, teacher.network.to(device), teacher.normalise.to(device), teacher.classes, teacher.input)


@torch.no_grad()
def soft_labels(teacher: Teacher, images: Tensor, batch_size: int = 500) -> Tensor:
    """The teacher's probabilities float16 [N, classes] for uint8 images [N, C, H, W] of any size, on the CPU."""
    device = teacher.normalise.mean.device
    parts = [teacher.network(teacher.normalise(devices.moved(part, device))).float().softmax(1) for part in images.split(batch_size)]
    return torch.cat(parts).to(torch.float16).cpu()
