"""Method ``black_box``: recovery from a teacher that only returns probabilities, by zero-order gradient estimation.

BiDf-MKD (Hu et al., "Learning to Learn from APIs: Black-Box Data-Free Meta-Learning", ICML 2023): a newly initialised generator per
teacher, trained with gradients that are estimated from the predictions for perturbed images. The teacher's gradients and BatchNorm
statistics are not used, so the loss consists of cross-entropy and the image priors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import BlackBoxInversion, RecoveryConfig
from datafree.inversion.generator import Generator, new_generator
from datafree.inversion.inner_loop import balanced_labels, batch_labels
from datafree.inversion.objective import as_row, prior_terms, random_view, weighted
from datafree.inversion.pixel_parameters import CONTRAST, GREY
from datafree.inversion.recovered import Outcomes, Recovered, Recovery, one_by_one
from datafree.inversion.regions import crop
from datafree.progress import progress, require_finite
from datafree.zoo.backbones import fitted

SMALLEST_PROBABILITY = 1e-7  # lower bound of a predicted probability, so that its logarithm is finite

Probabilities = Callable[[Tensor], Tensor]  # float [B, 3, S, S] in [0, 255] → [B, K], non-negative, summing to 1


def recover(
    recoveries: Sequence[Recovery], method: BlackBoxInversion, shared: RecoveryConfig, *, size: int, start: Generator | None, together: bool
) -> Outcomes:
    """``recover_from_predictions`` of one teacher network after the other; its probabilities alone are used. ``start`` is not used."""

    def recover_one(recovery: Recovery) -> Recovered:
        teacher = recovery.teacher
        device = teacher.normalise.mean.device

        def query(images: Tensor) -> Tensor:
            # In bfloat16 the predictions for two images that differ slightly would be equal.
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                return teacher.network(teacher.normalise(images)).softmax(1)

        return recover_from_predictions(
            query, len(teacher.classes), method, shared, size=size, seed=recovery.seed, checkpoint=recovery.checkpoint, device=device
        )

    return one_by_one(recoveries, recover_one)


def recover_from_predictions(
    probabilities: Probabilities,
    classes: int,
    method: BlackBoxInversion,
    shared: RecoveryConfig,
    *,
    size: int,
    seed: int,
    checkpoint: Checkpoint,
    device: torch.device,
) -> Recovered:
    """A pool of ``shared.images_per_class`` images for each of ``classes`` classes, ``size`` pixels square.

    Every step queries ``batch_size`` · (1 + ``directions``) images. ``queries`` in the history is the number of images queried so far; in
    the last row it includes those of the soft labels.

    Raises:
        UserError: the loss became NaN or infinite.
    """
    shape: dict[str, Any] = {"latent": method.latent, "width": method.width, "classes": classes, "channels": 3}
    generator = new_generator(**shape, size=size, seed=devices.derive_seed(seed, "black_box")).to(device)
    optimiser = torch.optim.Adam(generator.parameters(), lr=method.learning_rate, betas=(0.5, 0.999))
    first, history = checkpoint.restore(generator=generator, optimiser=optimiser)
    queries = history[-1]["queries"] if history else 0
    for step in progress(range(first, method.steps), method.steps - first, "black box"):
        rng = devices.generator(seed, "black_box", step)
        labels = batch_labels(classes, method.batch_size, rng).to(device)
        images = generator(torch.randn(len(labels), generator.latent, generator=rng).to(device), labels)
        views = augmented_view(images, random_view(size, shared, rng))
        losses, gradient = zero_order_gradient(
            _label_losses(probabilities, labels), views.detach(), directions=method.directions, smoothing=method.smoothing,
            block=method.block, rng=rng,
        )  # fmt: skip
        priors = prior_terms((images - GREY) / CONTRAST, labels, shared.loss)
        # A scalar whose gradient with respect to the views is the estimated gradient.
        cross_entropy = shared.loss.cross_entropy * (views * gradient).sum() / len(labels)
        optimiser.zero_grad(set_to_none=True)
        (cross_entropy + weighted(priors, shared.loss)).backward()
        optimiser.step()
        queries += len(labels) * (1 + method.directions)
        history.append({**as_row(step + 1, {"cross_entropy": losses.mean(), **priors}), "queries": queries})
        require_finite("black box", **history[-1])
        checkpoint.save(step + 1, history, generator=generator, optimiser=optimiser)
    return _pool(generator, probabilities, classes, method, shared, history, seed)


def augmented_view(images: Tensor, view: dict[str, Any]) -> Tensor:
    """A ``random_view`` of images [B, C, S, S]: its region, resized to S pixels, shifted and augmented; differentiable."""
    part = images if view["region"] is None else fitted(crop(images, view["region"]), images.shape[1:])
    moved = torch.roll(part, view["move"], dims=(2, 3))
    return moved if view["augment"] is None else view["augment"](moved)


def zero_order_gradient(
    function: Callable[[Tensor], Tensor], images: Tensor, *, directions: int, smoothing: float, block: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Values [B] of ``function`` at images [B, C, H, W], and an estimate of its gradient there, from function values alone.

    (d / q) Σ_i u_i (f(x + μ u_i) − f(x)) / μ with q = ``directions`` random unit vectors u_i per image, d dimensions and μ =
    ``smoothing``. For a smooth function and small μ its expectation is the gradient; the error falls with q / d. With ``block`` > 1 the
    directions are constant on squares of ``block`` pixels: d falls by ``block``², and the estimate is of the gradient's projection onto
    such directions.

    ``function`` must treat the images of a batch independently.
    """
    values = function(images)
    batch, channels, height, width = images.shape
    coarse = (channels, -(-height // block), -(-width // block))
    gradient = torch.zeros_like(images)
    for _ in range(directions):
        direction = torch.randn(batch, *coarse, generator=rng).to(images.device)
        direction = F.interpolate(direction, scale_factor=block, mode="nearest")[..., :height, :width]
        direction = direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        slope = (function(images + smoothing * direction) - values) / smoothing
        gradient += slope.view(-1, 1, 1, 1) * direction
    return values, gradient * (channels * coarse[1] * coarse[2] / directions)


def _label_losses(probabilities: Probabilities, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """A function of images in [0, 1] that gives −log of each label's probability, [B]; images are clamped to [0, 1] for the query."""

    def losses(images: Tensor) -> Tensor:
        predictions = probabilities(255 * images.clamp(0, 1)).float()
        return -predictions.gather(1, labels[:, None])[:, 0].clamp_min(SMALLEST_PROBABILITY).log()

    return losses


@torch.no_grad()
def _pool(
    generator: Generator,
    probabilities: Probabilities,
    classes: int,
    method: BlackBoxInversion,
    shared: RecoveryConfig,
    history: list[dict[str, float]],
    seed: int,
) -> Recovered:
    """Draw the pool from the trained generator and query its soft labels."""
    rng, device = devices.generator(seed, "black_box", "pool"), next(generator.parameters()).device
    labels = balanced_labels(classes, classes * shared.images_per_class)
    images, predictions = [], []
    for part in labels.tensor_split(max(1, round(len(labels) / method.batch_size))):
        drawn = generator(torch.randn(len(part), generator.latent, generator=rng).to(device), part.to(device))
        images.append((255 * drawn).round().to(torch.uint8))
        predictions.append(probabilities(images[-1].float()))
    last = {**history[-1], "queries": history[-1]["queries"] + len(labels)}
    soft = torch.cat(predictions).cpu().to(torch.float16)
    return Recovered(torch.cat(images).cpu(), labels, soft, [*history[:-1], last])
