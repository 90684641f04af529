"""The rows that can embarrass a method: what is to be had without recovering anything."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from datafree.evaluation.few_shot import Embedding
from datafree.zoo.backbones import Backbone, Normalise
from datafree.zoo.teachers import Teacher


def pixels(images: Tensor) -> Tensor:
    """The image itself, as a vector."""
    return images.flatten(1).float() / 255


def backbone_features(backbone: Backbone, normalise: Normalise, device: torch.device) -> Embedding:
    """Features of a network in evaluation mode."""
    backbone.to(device).eval()
    normalise.to(device)
    return lambda images: backbone(normalise(images))


def batch_statistics_features(backbone: Backbone, normalise: Normalise, device: torch.device) -> Embedding:
    """Features of an untrained network, whose BatchNorm has no running statistics worth using: those of the batch instead."""
    backbone.to(device).train()
    normalise.to(device)
    return lambda images: backbone(normalise(images))


def average_weights(teachers: Sequence[Teacher]) -> Teacher | None:
    """One network whose backbone is the mean of all teachers' backbones; None when their architectures differ."""
    states = [teacher.network.backbone.state_dict() for teacher in teachers]
    # The text of a network tells its layers with their sizes and strides; equal shapes of weights would not be enough.
    if len({str(teacher.network.backbone) for teacher in teachers}) > 1:
        return None
    mean = copy.deepcopy(teachers[0])
    average = {name: torch.stack([state[name].float() for state in states]).mean(0).to(states[0][name].dtype) for name in states[0]}
    mean.network.backbone.load_state_dict(average)
    return mean
