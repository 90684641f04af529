"""The learner: a backbone and one head per teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.heads import TeacherHeads
from datafree.zoo.backbones import Backbone, Normalise
from datafree.zoo.logits import at_least_float32

POOL_IMAGES, LARGEST_SHARE = 2000, 200  # images that ``outputs_of_pools`` uses: of all pools, and at most of one


class Learner(nn.Module):
    """Backbone, heads, and the normalisation of its inputs. A new task uses the features and, if they were trained, the heads."""

    def __init__(self, backbone: Backbone, heads: TeacherHeads, normalise: Normalise) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads
        self.normalise = normalise

    def forward(self, views: Tensor, queried: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Normalised images [B, C, H, W] → features [B, D], at least float32, and the logits of the queried teachers' heads."""
        features = at_least_float32(self.backbone(views))
        return features, self.heads(features, queried)

    def features(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] → [B, D]."""
        return self.backbone(self.normalise(images))


@torch.no_grad()
def outputs_of_pools(learner: Learner, ensemble: TeacherEnsemble) -> tuple[Tensor, Tensor]:
    """Features [B, D] and all heads' logits [B, T, K] in evaluation mode, of as many images of each pool, spread over the pool."""
    learner.eval()
    each = min(max(2, POOL_IMAGES // len(ensemble.pools)), LARGEST_SHARE)
    outputs = []
    for pool in ensemble.pools:
        rows = torch.linspace(0, len(pool.images) - 1, min(each, len(pool.images))).long()
        outputs.append(learner(ensemble.views(pool.images[rows], torch.Generator(), augment=False), range(len(ensemble.teachers))))
    return torch.cat([features for features, _ in outputs]), torch.cat([logits for _, logits in outputs])
