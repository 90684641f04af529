"""Retraining: distil the teachers into the stand-alone network of a searched architecture, from scratch, on recovered images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datafree.checkpoints import Checkpoint
from datafree.config import AlgorithmConfig, BackboneConfig
from datafree.devices import derive_seed, seeded_initialisation
from datafree.distillation.fidelity import Fidelity, student_fidelity
from datafree.distillation.heads import TeacherHeads, own_logits
from datafree.distillation.joined_pools import JoinedPools, training_batch
from datafree.distillation.losses import distillation_loss
from datafree.nas.networks import build
from datafree.nas.training import minimise
from datafree.zoo.backbones import Backbone

LEARNING_RATE = 0.01  # AdamW, peak of the one-cycle schedule


class MultiHeadClassifier(nn.Module):
    """A backbone with one head per teacher: images float [B, C, H, W], teacher int64 [B] → logits [B, most classes], see ``own_logits``."""

    def __init__(self, backbone: Backbone, classes: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = TeacherHeads(backbone.feature_size, classes)

    def forward(self, images: Tensor, teacher: Tensor) -> Tensor:
        return own_logits(self.heads, self.backbone(images), teacher)


@dataclass(frozen=True)
class Retrained:
    """The network in evaluation mode, its training curve, and its score on the held-out images (``held_out``: their number)."""

    network: MultiHeadClassifier
    curve: list[dict[str, float]]
    score: Fidelity
    held_out: int


def retrain(
    pools: JoinedPools,
    backbone_config: BackboneConfig,
    config: AlgorithmConfig,
    seed: int,
    device: torch.device | str,
    checkpoint: Checkpoint,
) -> Retrained:
    """Distil all teachers into one stand-alone network, with the loss and the held-out images of the search.

    Raises:
        UserError: a malformed genotype, or the training diverges.
    """
    pools = pools.to(device)
    training, held_out = pools.split(config.validation, seed)
    network_seed = derive_seed(seed, "retrain")
    backbone = build(backbone_config, pools.image_channels, pools.image_size, network_seed)
    with seeded_initialisation(derive_seed(network_seed, "heads")):
        network = MultiHeadClassifier(backbone, pools.classes)
    network.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=max(config.retrain_steps, 2))
    states = {"network": network, "optimiser": optimiser, "schedule": schedule}

    def loss_of(step: int) -> Tensor:
        batch = training_batch(pools, training, config.batch_size, seed, "retraining", step)
        return distillation_loss(network(batch.images, batch.teacher), batch.soft_labels, config.temperature)

    curve = minimise(loss_of, config.retrain_steps, optimiser, schedule, "retraining", checkpoint, states)
    network.eval()
    result = student_fidelity(lambda batch: network(batch.images, batch.teacher), pools, held_out, config.temperature)
    return Retrained(network, curve, result, len(held_out))
