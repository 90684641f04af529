"""The learner: a backbone and, for training, one head per teacher."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from datafree.distillation.heads import TeacherHeads
from datafree.zoo.backbones import Backbone, Normalise
from datafree.zoo.logits import at_least_float32


class Learner(nn.Module):
    """Backbone, heads, and the normalisation of its inputs. The heads are for training only; a new task uses the features."""

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
