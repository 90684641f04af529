"""Baselines of the few-shot table, which need no recovered image: pixels, networks' features, averaged teachers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from datafree.evaluation.few_shot import Embedding
from datafree.evaluation.readouts import Reader, Representations, averaged, mean_of_views
from datafree.zoo.backbones import Backbone, Normalise
from datafree.zoo.teacher_passes import outputs_of_all
from datafree.zoo.teachers import Teacher


def pixels(images: Tensor) -> Representations:
    """Pixel values in [0, 1] as features: uint8 [B, C, H, W] → float [B, C · H · W]."""
    return {"features": images.flatten(1).float() / 255}


def network_embedding(backbone: Backbone, normalise: Normalise, reader: Reader, device: torch.device, *, mirrored: bool) -> Embedding:
    """The representations of a network in evaluation mode; ``mirrored`` as in ``averaged``."""
    backbone.to(device).eval()
    normalise.to(device)
    return lambda images: averaged(lambda images: reader(backbone(normalise(images))), images, mirrored)


def teachers_together(
    teachers: Sequence[Teacher], readers: Sequence[Reader], *, mirrored: bool
) -> Callable[[Tensor], list[Representations]]:
    """``network_embedding`` of every teacher with its reader, for all images and all teachers of one architecture in one pass."""

    def read(images: Tensor) -> list[Representations]:
        outputs = outputs_of_all(teachers, images)
        return [reader.read(features, logits[:, None]) for reader, (features, logits) in zip(readers, outputs, strict=True)]

    def embed(images: Tensor) -> list[Representations]:
        return list(map(mean_of_views, read(images), read(images.flip(-1)))) if mirrored else read(images)

    return embed


def batch_statistics_features(backbone: Backbone, normalise: Normalise, device: torch.device) -> Embedding:
    """The features of an untrained network, whose BatchNorm has no meaningful running statistics: it uses those of the batch."""
    backbone.to(device).train()
    normalise.to(device)
    return lambda images: {"features": backbone(normalise(images))}


def average_weights(teachers: Sequence[Teacher]) -> Teacher | None:
    """A network whose backbone's weights are the mean of all teachers'; None if their architectures differ."""
    states = [teacher.network.backbone.state_dict() for teacher in teachers]
    # The string of a network lists its layers with sizes and strides; equal shapes of weights do not imply equal strides.
    if len({str(teacher.network.backbone) for teacher in teachers}) > 1:
        return None
    averaged = copy.deepcopy(teachers[0])
    mean = {name: torch.stack([state[name].float() for state in states]).mean(0).to(states[0][name].dtype) for name in states[0]}
    averaged.network.backbone.load_state_dict(mean)
    return averaged
