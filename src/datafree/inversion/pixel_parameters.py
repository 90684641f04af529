"""Images as free parameters under Adam: what pixel inversion and the learnable data set have in common."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datafree.inversion.regions import Region, region_mask

GREY, CONTRAST = 0.5, 0.25  # image = GREY + CONTRAST · pixels: about the unit of a normalised image, so the field's rates apply
REACH = 2.0  # largest absolute value of a pixel: black and white


class PixelParameters:
    """Images float [B, 3, S, S] that an optimiser moves, and those that are finished already.

    ``pixels`` are in units in which 0 is mid-grey and ±2 are black and white. The state is that of a checkpoint: the images at work, their
    optimiser, and all finished images.
    """

    def __init__(self, device: torch.device, learning_rate: float, betas: tuple[float, float]) -> None:
        self.device = device
        self.learning_rate = learning_rate
        self.betas = betas
        self.finished: list[Tensor] = []
        self.place(torch.zeros(0, 3, 1, 1))

    def place(self, pixels: Tensor) -> None:
        """Start on new images with a fresh optimiser; ``pixels`` float [B, 3, S, S]."""
        self.pixels = nn.Parameter(pixels.detach().to(self.device).clamp(-REACH, REACH))
        self.optimiser = torch.optim.Adam([self.pixels], lr=self.learning_rate, betas=self.betas)

    def start(self, count: int, size: int, rng: torch.Generator) -> None:
        """Start on ``count`` images of independent normal noise, ``size`` pixels square."""
        self.place(torch.randn(count, 3, size, size, generator=rng))

    def enlarge(self, size: int) -> None:
        """Go on at another size, with a fresh optimiser."""
        self.place(F.interpolate(self.pixels.detach(), size=(size, size), mode="bilinear", antialias=True, align_corners=False))

    def images(self, rows: Tensor | None = None) -> Tensor:
        """The images at work, or some of them, float [B, 3, S, S] in [0, 1]; differentiable."""
        return GREY + CONTRAST * (self.pixels if rows is None else self.pixels[rows])

    def step(self, loss: Tensor, share: float, region: Region | None = None, mirrored: bool = False) -> None:
        """One Adam step down ``loss``; the rate falls along a cosine with ``share``, the part of the work that is done, in [0, 1].

        Only pixels of the ``region`` move, a place in the images or, if ``mirrored``, in their mirror images: Adam's momentum would move
        those without a gradient, too.
        """
        self.optimiser.param_groups[0]["lr"] = self.learning_rate * (1 + math.cos(math.pi * share)) / 2
        before = self.pixels.detach().clone()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            self.pixels.clamp_(-REACH, REACH)
            if region is not None:
                mask = region_mask(before.shape[2], before.shape[3], region).to(self.device)
                self.pixels.copy_(torch.where((mask.flip(3) if mirrored else mask) > 0, self.pixels, before))

    @torch.no_grad()
    def finish(self, part: int) -> None:
        """Keep the images at work as finished part ``part``, in place of what it was before: uint8 on the CPU."""
        self.finished[part : part + 1] = [(255 * self.images()).round().to(torch.uint8).cpu()]

    def state_dict(self) -> dict[str, Any]:
        return {"pixels": self.pixels.detach(), "optimiser": self.optimiser.state_dict(), "finished": self.finished}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.place(state_dict["pixels"])
        self.optimiser.load_state_dict(state_dict["optimiser"])
        self.finished = list(state_dict["finished"])


def coarse_steps(share: float, steps: int) -> int:
    """How many of ``steps`` are done at half the resolution; the last one never is."""
    return min(round(share * steps), steps - 1)


def stage_share(step: int, coarse: int, steps: int) -> float:
    """The share of its stage, coarse or fine, that is done before ``step``."""
    return step / coarse if step < coarse else (step - coarse) / (steps - coarse)
