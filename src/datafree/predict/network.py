"""A trained network as a module from images to the representation that new classes are learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datafree.distillation.heads import TeacherHeads
from datafree.evaluation.representations import EQUAL, JoinWeights, join, probabilities_at, root_features, side_by_side_factors
from datafree.zoo.backbones import Backbone, Normalise
from datafree.zoo.logits import at_least_float32


class RepresentationNetwork(nn.Module):
    """uint8 or [0, 255] float images [B, C, H, W] → representation float32 [B, R], by ``joined``, or ``features`` without heads.

    The result is that of ``datafree.evaluation.baselines.network_embedding``, with fixed shapes, so that it can be exported. ``mirrored``:
    the mean representation of an image and its mirror image. ``heads``: those of a learner, or the one head of a teacher.
    """

    columns: Tensor  # of the heads' outputs, those of existing classes

    def __init__(
        self,
        backbone: Backbone,
        normalise: Normalise,
        heads: TeacherHeads | nn.Linear | None,
        weights: JoinWeights = EQUAL,
        *,
        mirrored: bool,
    ) -> None:
        super().__init__()
        self.backbone, self.normalise, self.heads = backbone, normalise, heads
        self.weights, self.mirrored = weights, mirrored
        present = torch.empty(0, dtype=torch.bool)
        if heads is not None:
            present = ~heads.absent if isinstance(heads, TeacherHeads) else torch.ones(heads.out_features, dtype=torch.bool)
        self.register_buffer("columns", torch.nonzero(present.flatten()).flatten(), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        read = self._read(images)
        return torch.lerp(read, self._read(images.flip(-1)), 0.5) if self.mirrored else read

    def _read(self, images: Tensor) -> Tensor:
        features = self.backbone(self.normalise(images))
        values = at_least_float32(features)
        if self.heads is None:
            return values
        logits = self.heads.of_all(features) if isinstance(self.heads, TeacherHeads) else self.heads(features)[:, None]
        logits = at_least_float32(logits)
        return join(root_features(values, logits, self.weights), probabilities_at(logits, self.columns), self.weights)

    @property
    def size(self) -> int:
        """R, the length of a representation."""
        return self.backbone.feature_size + len(self.columns)


class SideBySide(nn.Module):
    """Several networks as one: the representations of its ``members``, each of unit length, weighted and concatenated, float32 [B, Σ R].

    The result is what the row of all teachers in the few-shot table is computed from.
    """

    factors: Tensor

    def __init__(self, members: Sequence[RepresentationNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("factors", factors_of(members), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return joined_side_by_side([member(images) for member in self.members], self.factors)

    @property
    def size(self) -> int:
        """Σ R, the length of a representation."""
        return len(self.factors)


def factors_of(members: Sequence[RepresentationNetwork]) -> Tensor:
    """What the columns of all members' representations are multiplied by, float32 [Σ R]."""
    counts = [len(member.columns) for member in members]
    sizes = [member.backbone.feature_size for member in members]
    factors = [side_by_side_factors(size, count, sum(counts)) for size, count in zip(sizes, counts, strict=True)]
    return torch.cat(factors).to(members[0].columns.device)


def joined_side_by_side(representations: Sequence[Tensor], factors: Tensor) -> Tensor:
    """What ``SideBySide`` makes of its members' representations [B, R_i] and the ``factors_of`` the members, [Σ R_i]."""
    return torch.cat([F.normalize(values, dim=1) for values in representations], dim=1) * factors


@dataclass(frozen=True, eq=False)
class TrainedLearner:
    """A network that can learn new classes.

    Attributes:
        network: maps images to representations.
        negatives: float32 [M, R], the representations of recovered images, none of a user's classes; M may be 0.
        card: ``input`` [C, H, W], how it was made, and ``backbone``, ``mean``, ``std``, ``teacher_classes`` (empty without heads); of
            several networks side by side ``members``, a card with these and ``input`` for each.
    """

    network: RepresentationNetwork | SideBySide
    negatives: Tensor
    card: Mapping[str, Any]

    @property
    def image_size(self) -> int:
        """Pixels of the side of an input image."""
        return self.card["input"][1]

    @property
    def members(self) -> list[RepresentationNetwork]:
        """The networks that an image passes through."""
        return [self.network] if isinstance(self.network, RepresentationNetwork) else list(self.network.members)  # type: ignore[arg-type]

    @torch.no_grad()
    def represent(self, images: Tensor, batch_size: int = 250) -> Tensor:
        """Representations float32 [N, R], on the CPU, of uint8 images [N, 3, H, W], N ≥ 1, on the network's device."""
        device = next(self.network.buffers()).device
        return torch.cat([self.network(part.to(device)).float().cpu() for part in images.split(batch_size)])
