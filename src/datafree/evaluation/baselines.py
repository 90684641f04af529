"""Baselines of the few-shot table, which need no recovered image: pixels, networks' features, averaged teachers."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from datafree.evaluation.few_shot import Embedding
from datafree.zoo.backbones import Backbone, Normalise
from datafree.zoo.teachers import Teacher


def pixels(images: Tensor) -> Tensor:
    """Pixel values in [0, 1] as features: uint8 [B, C, H, W] → float [B, C · H · W]."""
    return images.flatten(1).float() / 255


def backbone_features(backbone: Backbone, normalise: Normalise, device: torch.device) -> Embedding:
    """The features of a network in evaluation mode, as an embedding."""
    backbone.to(device).eval()
    normalise.to(device)
    return lambda images: backbone(normalise(images))


def batch_statistics_features(backbone: Backbone, normalise: Normalise, device: torch.device) -> Embedding:
    """The features of an untrained network, whose BatchNorm has no meaningful running statistics: it uses those of the batch."""
    backbone.to(device).train()
    normalise.to(device)
    return lambda images: backbone(normalise(images))


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
