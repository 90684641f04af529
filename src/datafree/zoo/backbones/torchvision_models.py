"""Backbones from torchvision: any of its image classifiers with a linear last layer, by torchvision's name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datafree.config import BackboneConfig
from datafree.errors import UserError
from datafree.zoo.backbones.base import Backbone
from datafree.zoo.torchvision_guard import import_torchvision

AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}  # heads used in training only


def build(config: BackboneConfig, channels: int, size: int) -> TorchvisionModel:
    """``torchvision/<torchvision's name>``."""
    return TorchvisionModel(config.name.partition("/")[2], channels, size)


class TorchvisionModel(Backbone):
    """``torchvision.models.get_model(name)`` without weights and without its last linear layer; the features are that layer's input.

    Raises:
        UserError: no image classifier of that name, no linear last layer (SqueezeNet), or an input that it cannot process.
    """

    def __init__(self, name: str, channels: int, image_size: int) -> None:
        super().__init__()
        if channels != 3:
            raise UserError(f"architecture torchvision/{name}: got {channels} input channels; torchvision's classifiers take 3")
        self.model = _model(name, image_size)
        linear = [(path, module) for path, module in self.model.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise UserError(f"architecture torchvision/{name}: its last layer is not linear, which is required here; choose another model")
        head, last = linear[-1]
        self.model.set_submodule(head, nn.Identity())
        self.feature_size = last.in_features
        self.head_bias = last.bias is not None
        self.foreign_keys = {head: "head", "": "backbone.model"} | dict.fromkeys(AUXILIARY.get(name, ()))
        if name.startswith("densenet"):  # the published files have older tensor names
            layer = "features.{}.{}"
            for number in (1, 2):
                for part in ("norm", "conv"):
                    self.foreign_keys[f"{layer}.{part}.{number}"] = f"backbone.model.{layer}.{part}{number}"

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def _model(name: str, image_size: int) -> nn.Module:
    models = import_torchvision().models
    allowed = models.list_models(module=models)
    if name not in allowed:
        raise UserError(f"architecture: got 'torchvision/{name}'; allowed after the slash: {', '.join(allowed)}")
    options = {}
    if name in AUXILIARY:
        options = {"aux_logits": False, "init_weights": False}
    elif name.startswith("vit_"):
        options = {"image_size": image_size}
    elif name.startswith("maxvit_"):
        options = {"input_size": (image_size, image_size)}
    try:
        return models.get_model(name, weights=None, **options)
    except NotImplementedError:  # RegNet computes its widths with tensors, which is impossible on the device "meta"
        with torch.device("cpu"):
            model = models.get_model(name, weights=None, **options)
        return model.to(torch.get_default_device())
    except (AssertionError, ValueError) as error:
        raise UserError(f"architecture torchvision/{name}: cannot process images of {image_size} pixels: {error}") from None
