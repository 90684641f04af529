"""Conv4: the network of four convolutional blocks that is standard in few-shot learning."""

from __future__ import annotations

from torch import Tensor, nn

from datafree.config import BackboneConfig
from datafree.errors import UserError
from datafree.zoo.backbones.base import Backbone


def build(config: BackboneConfig, channels: int, size: int) -> Conv4:
    """``conv4``."""
    return Conv4(config.width, channels, size)


def build_strided(config: BackboneConfig, channels: int, size: int) -> Conv4:
    """``conv4_strided``."""
    return Conv4(config.width, channels, size, stride_stem=True)


class Conv4(Backbone):
    """Four blocks of conv3x3 → BatchNorm → ReLU → max-pool 2; Vinyals et al., "Matching Networks", NeurIPS 2016.

    At 32 px and width w the features are the flattened 2x2 map: 4w values; at 84 px 25w. ``stride_stem`` halves the resolution in the
    first convolution instead of the first pooling, at a quarter of the cost of the first block.

    Raises:
        UserError: images below 16 pixels.
    """

    def __init__(self, width: int, channels: int = 3, image_size: int = 32, stride_stem: bool = False) -> None:
        super().__init__()
        if image_size < 16:
            raise UserError(f"architecture conv4: got images of {image_size} pixels; four poolings need at least 16")
        inputs = [channels, width, width, width]
        strided = [stride_stem, False, False, False]
        self.blocks = nn.ModuleList(ConvBlock(i, width, s) for i, s in zip(inputs, strided, strict=True))
        first = (image_size + 1) // 2 if stride_stem else image_size // 2  # a strided convolution rounds up, pooling down
        self.feature_size = width * (first // 8) ** 2

    def forward(self, images: Tensor) -> Tensor:
        for block in self.blocks:
            images = block(images)
        return images.flatten(1)


class ConvBlock(nn.Module):
    """conv3x3 → BatchNorm → ReLU, then max-pool 2 unless the convolution is strided."""

    def __init__(self, inputs: int, outputs: int, strided: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=2 if strided else 1, padding=1)
        self.norm = nn.BatchNorm2d(outputs)
        self.strided = strided

    def forward(self, images: Tensor) -> Tensor:
        images = self.norm(self.conv(images))
        # Max-pooling and ReLU commute; in this order the ReLU processes a quarter of the values.
        return (images if self.strided else nn.functional.max_pool2d(images, 2)).relu()
