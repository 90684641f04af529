"""Backbones from timm: any of its image classifiers with a linear last layer, by timm's name; needs the extra ``timm``."""

from __future__ import annotations

from torch import Tensor, nn

from datafree.config import BackboneConfig
from datafree.errors import UserError
from datafree.extras import import_extra
from datafree.zoo.backbones.base import Backbone


def build(config: BackboneConfig, channels: int, size: int) -> TimmModel:
    """``timm/<timm's name>``."""
    return TimmModel(config.name.partition("/")[2], channels, size)


class TimmModel(Backbone):
    """``timm.create_model(name)`` without weights and without its last linear layer; the features are that layer's input.

    Raises:
        UserError: timm is not installed or has no model of that name, or the model's last layer is not linear.
    """

    def __init__(self, name: str, channels: int, image_size: int) -> None:
        super().__init__()
        timm = import_extra("timm", "timm", f"architecture timm/{name}")
        try:
            self.model = timm.create_model(name, pretrained=False, in_chans=channels)
        except Exception as error:  # timm passes on whatever its models raise
            raise UserError(f"architecture timm/{name}: timm cannot build it: {str(error)[:160]}") from None
        head = self.model.pretrained_cfg.get("classifier")
        last = self.model.get_submodule(head) if isinstance(head, str) else None
        if not isinstance(last, nn.Linear):
            raise UserError(f"architecture timm/{name}: its last layer is not a single linear layer; choose another model")
        self.model.set_submodule(head, nn.Identity())
        self.feature_size = last.in_features
        self.head_bias = last.bias is not None
        self.foreign_keys = {head: "head", "": "backbone.model"}

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)
