"""Pixel parameters: images as free parameters under Adam, for pixel inversion and the learnable data set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GREY, CONTRAST = 0.5, 0.25  # image = GREY + CONTRAST · pixels: about the scale of normalised images, so published learning rates apply
LIMIT = 2.0  # largest absolute value of a pixel parameter: black and white
ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


class PixelParameters:
    """Batches of images [..., 3, S, S] as parameters with one optimiser; as Adam treats every pixel by itself, the batches are independent.

    ``pixels``: 0 is mid-grey, ±2 are black and white.
    """

    def __init__(self, device: torch.device, learning_rate: float, betas: tuple[float, float]) -> None:
        self.device = device
        self.learning_rate = learning_rate
        self.betas = betas
        self.place(torch.zeros(0, 3, 1, 1))

    def place(self, pixels: Tensor) -> None:
        """Set the images to ``pixels`` float [..., 3, S, S], clamped to ±2, with a fresh optimiser."""
        self.pixels = nn.Parameter(pixels.detach().to(self.device).clamp(-LIMIT, LIMIT))
        self.optimiser = torch.optim.Adam([self.pixels], lr=self.learning_rate, betas=self.betas)

    def enlarge(self, size: int) -> None:
        """Resize the images bilinearly to ``size`` pixels square, with a fresh optimiser."""
        images = self.pixels.detach().flatten(0, -4)
        larger = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        self.place(larger.unflatten(0, self.pixels.shape[:-3]))

    def images(self, rows: Tensor | None = None) -> Tensor:
        """The images, or only ``rows`` int64 of the first dimension, float [..., 3, S, S] in [0, 1]; differentiable."""
        return GREY + CONTRAST * (self.pixels if rows is None else self.pixels[rows])

    def step(self, loss: Tensor, share: float, changeable: Tensor | None = None) -> None:
        """One Adam step on ``loss``; the learning rate follows a cosine to 0 in ``share``, the share of the steps done, in [0, 1].

        ``changeable``: bool, broadcast with the pixels; the others stay as they are, although Adam's momentum would move them. None: all.
        """
        self.optimiser.param_groups[0]["lr"] = self.learning_rate * (1 + math.cos(math.pi * share)) / 2
        before = self.pixels.detach().clone()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            self.pixels.clamp_(-LIMIT, LIMIT)
            if changeable is not None:
                self.pixels.copy_(torch.where(changeable, self.pixels, before))

    @torch.no_grad()
    def finished(self) -> Tensor:
        """The images uint8 [..., 3, S, S] on the CPU."""
        return (255 * self.images()).round().to(torch.uint8).cpu()

    def state(self, rows: slice = slice(None)) -> dict[str, Tensor]:
        """Pixels and Adam's state of ``rows`` of the first dimension, for a checkpoint."""
        adam = self.optimiser.state[self.pixels]
        return {"pixels": self.pixels.detach()[rows]} | {name: adam[name] if name == "step" else adam[name][rows] for name in ADAM_STATE}

    def restore(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Continue from the states of several slices of rows, which were saved after the same step, in their order."""
        self.place(torch.cat([state["pixels"] for state in states]))
        joined: dict[str, Any] = {name: torch.cat([state[name] for state in states]).to(self.device) for name in ADAM_STATE[1:]}
        self.optimiser.state[self.pixels] = {"step": states[0]["step"].clone(), **joined}


class SavedPixels:
    """What a checkpoint holds of one recovery of pixels: ``finished``, its uint8 batches on the CPU, ``current``, the state of the rows
    that are being optimised, and ``passes``, the numbers of the batches that are optimised at the same time."""

    def __init__(self) -> None:
        self.finished: list[Tensor] = []
        self.current: dict[str, Tensor] = {}
        self.passes: list[list[int]] = []

    def finish(self, part: int, images: Tensor) -> None:
        """Store finished batch ``part``; replaces an earlier one of that number."""
        self.finished[part : part + 1] = [images]

    def state_dict(self) -> dict[str, Any]:
        return {"finished": self.finished, "current": self.current, "passes": self.passes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.finished, self.current, self.passes = (state_dict[name] for name in ("finished", "current", "passes"))


def coarse_steps(share: float, steps: int) -> int:
    """How many of ``steps`` are done at half the resolution: ``share`` of them, but never the last one."""
    return min(round(share * steps), steps - 1)


def stage_share(step: int, coarse: int, steps: int) -> float:
    """Share in [0, 1) of the current stage (coarse or full resolution) that is done before ``step``."""
    return step / coarse if step < coarse else (step - coarse) / (steps - coarse)
