"""Pixel parameters: images as free parameters under Adam, for pixel inversion and the learnable data set."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datafree.inversion.regions import Region, region_mask

GREY, CONTRAST = 0.5, 0.25  # image = GREY + CONTRAST · pixels: about the scale of normalised images, so published learning rates apply
LIMIT = 2.0  # largest absolute value of a pixel parameter: black and white


class PixelParameters:
    """A batch of images [B, 3, S, S] as parameters with their optimiser, and the finished batches.

    ``pixels``: 0 is mid-grey, ±2 are black and white. ``finished``: uint8 batches on the CPU. ``state_dict`` holds the current pixels, the
    optimiser's state and the finished batches.
    """

    def __init__(self, device: torch.device, learning_rate: float, betas: tuple[float, float]) -> None:
        self.device = device
        self.learning_rate = learning_rate
        self.betas = betas
        self.finished: list[Tensor] = []
        self.place(torch.zeros(0, 3, 1, 1))

    def place(self, pixels: Tensor) -> None:
        """Set the current batch to ``pixels`` float [B, 3, S, S], clamped to ±2, with a fresh optimiser."""
        self.pixels = nn.Parameter(pixels.detach().to(self.device).clamp(-LIMIT, LIMIT))
        self.optimiser = torch.optim.Adam([self.pixels], lr=self.learning_rate, betas=self.betas)

    def start(self, count: int, size: int, rng: torch.Generator) -> None:
        """Set the current batch to ``count`` images of independent standard normal noise, ``size`` pixels square."""
        self.place(torch.randn(count, 3, size, size, generator=rng))

    def enlarge(self, size: int) -> None:
        """Resize the current batch bilinearly to ``size`` pixels square, with a fresh optimiser."""
        self.place(F.interpolate(self.pixels.detach(), size=(size, size), mode="bilinear", antialias=True, align_corners=False))

    def images(self, rows: Tensor | None = None) -> Tensor:
        """The current images, or only ``rows`` int64 of them, float [B, 3, S, S] in [0, 1]; differentiable."""
        return GREY + CONTRAST * (self.pixels if rows is None else self.pixels[rows])

    def step(self, loss: Tensor, share: float, region: Region | None = None, mirrored: bool = False) -> None:
        """One Adam step on ``loss``; the learning rate follows a cosine to 0 in ``share``, the share of the steps done, in [0, 1].

        With a ``region``, only pixels inside it change; ``mirrored``: its coordinates are those of the horizontally flipped images. Without
        the mask, Adam's momentum would also move pixels that have no gradient.
        """
        self.optimiser.param_groups[0]["lr"] = self.learning_rate * (1 + math.cos(math.pi * share)) / 2
        before = self.pixels.detach().clone()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            self.pixels.clamp_(-LIMIT, LIMIT)
            if region is not None:
                mask = region_mask(before.shape[2], before.shape[3], region).to(self.device)
                self.pixels.copy_(torch.where((mask.flip(3) if mirrored else mask) > 0, self.pixels, before))

    @torch.no_grad()
    def finish(self, part: int) -> None:
        """Store the current images as finished batch ``part``, uint8 on the CPU; replaces an earlier one of that number."""
        self.finished[part : part + 1] = [(255 * self.images()).round().to(torch.uint8).cpu()]

    def state_dict(self) -> dict[str, Any]:
        return {"pixels": self.pixels.detach(), "optimiser": self.optimiser.state_dict(), "finished": self.finished}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.place(state_dict["pixels"])
        self.optimiser.load_state_dict(state_dict["optimiser"])
        self.finished = list(state_dict["finished"])


def coarse_steps(share: float, steps: int) -> int:
    """How many of ``steps`` are done at half the resolution: ``share`` of them, but never the last one."""
    return min(round(share * steps), steps - 1)


def stage_share(step: int, coarse: int, steps: int) -> float:
    """Share in [0, 1) of the current stage (coarse or full resolution) that is done before ``step``."""
    return step / coarse if step < coarse else (step - coarse) / (steps - coarse)
