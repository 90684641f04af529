"""Read-outs by name: how a representation of an image is made of a network's features and the logits of its heads.

A new read-out is one function, here in ``datafree.evaluation.representations`` or in a file of its own, one line in ``READOUTS``, and its
name in ``datafree.config.schema.READOUTS``. Every classifier takes every representation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datafree.distillation.heads import TeacherHeads
from datafree.evaluation.representations import EQUAL, JoinWeights
from datafree.registry import Registry
from datafree.zoo.logits import at_least_float32

# Features [B, D] and logits [B, T, K] of T heads (T = 0: no heads), ``ABSENT`` beyond a head's classes → representation [B, R].
ReadOut = Callable[[Tensor, Tensor, JoinWeights], Tensor]
Heads = Callable[[Tensor], Tensor]  # features [B, D] → logits [B, T, K]
Representations = dict[str, Tensor]  # by read-out, each [B, R]

READOUTS: Registry[ReadOut] = Registry(
    {
        "joined": "datafree.evaluation.representations:joined",
        "features": "datafree.evaluation.representations:features",
        "root_features": "datafree.evaluation.representations:root_features",
        "probabilities": "datafree.evaluation.representations:probabilities",
    }
)

PLAIN, WITHOUT_HEADS = "joined", "features"  # the read-outs whose rows have no variant, of networks with heads and without
OF_HEADS = ("joined", "probabilities")  # read-outs that need heads


@dataclass(frozen=True)
class Reader:
    """Reads a network's features in several ways. ``heads`` is None for a network without trained heads."""

    readouts: tuple[str, ...]
    heads: Heads | None = None
    weights: JoinWeights = EQUAL

    @classmethod
    def of(cls, readouts: Sequence[str], heads: Heads | None, weights: JoinWeights = EQUAL) -> Reader:
        """The reader for ``readouts``; without heads, ``features`` stands in the place of those that need heads."""
        possible = [WITHOUT_HEADS if heads is None and name in OF_HEADS else name for name in readouts]
        return cls(tuple(dict.fromkeys(possible)), heads, weights)

    def __call__(self, features: Tensor) -> Representations:
        """Every representation of features [B, D], at least float32."""
        return self.read(features, self.heads(features) if self.heads else features.new_zeros(len(features), 0, 0))

    def read(self, features: Tensor, logits: Tensor) -> Representations:
        """As a call, with the logits [B, T, K] of the heads."""
        features, logits = at_least_float32(features), at_least_float32(logits)
        return {name: READOUTS[name](features, logits, self.weights) for name in self.readouts}

    def only(self, readout: str) -> Reader:
        """The reader for one of its read-outs."""
        return dataclasses.replace(self, readouts=(readout,))

    def variant(self, readout: str) -> str:
        """What distinguishes the row of a read-out from the network's plain row; empty for that."""
        return "" if readout == (WITHOUT_HEADS if self.heads is None else PLAIN) else readout

    def describe(self, readout: str) -> str:
        """The read-out in the description of a row."""
        return f"read by {readout.replace('_', ' ')}" + (" (no trained heads)" if self.heads is None and readout == WITHOUT_HEADS else "")


FEATURES_ONLY = Reader(("features",))


def heads_of(module: TeacherHeads | nn.Linear) -> Heads:
    """All heads of a learner, or the one head of a classifier."""
    return module.of_all if isinstance(module, TeacherHeads) else lambda features: module(features)[:, None]


def averaged(read: Callable[[Tensor], Representations], images: Tensor, mirrored: bool) -> Representations:
    """The representations of images [B, C, H, W]; with ``mirrored`` the means of those of the images and of their mirror images."""
    return mean_of_views(read(images), read(images.flip(-1))) if mirrored else read(images)


def mean_of_views(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Representations:
    """The mean of two views' representations of the same images, by read-out."""
    return {name: torch.lerp(value, second[name], 0.5) for name, value in first.items()}
