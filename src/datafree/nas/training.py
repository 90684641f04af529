"""The training loop of supernets and retraining: learning-rate schedule, training curve, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from datafree.checkpoints import Checkpoint, HasState
from datafree.progress import progress, require_finite

STEPS_PER_ROW = 10  # of a training curve


def minimise(
    loss_of: Callable[[int], Tensor],
    steps: int,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    label: str,
    checkpoint: Checkpoint,
    states: Mapping[str, HasState],
    describe: Callable[[int], dict[str, float]] = lambda step: {},
    gradient_clip: float | None = None,
) -> list[dict[str, float]]:
    """Minimise ``loss_of(step)``; returns the curve: rows of ``step``, ``loss``, ``learning_rate`` and the entries of ``describe(step)``.

    ``states`` are the objects saved in the checkpoint, optimiser and schedule included. Random numbers of a step must depend only on its
    number: then a resumed run equals an uninterrupted one bit for bit on CPU. ``gradient_clip``, if any, is the largest norm of the
    gradient of all parameters of the optimiser.

    Raises:
        UserError: the loss is no longer finite.
    """
    start, history = checkpoint.restore(**states)
    for step in progress(range(start, steps), max(steps - start, 0), label):
        rate = optimiser.param_groups[0]["lr"]
        loss = loss_of(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if gradient_clip:
            nn.utils.clip_grad_norm_([parameter for group in optimiser.param_groups for parameter in group["params"]], gradient_clip)
        optimiser.step()
        schedule.step()
        if step % STEPS_PER_ROW == 0 or step == steps - 1:
            history.append({"step": step + 1, "loss": loss.item(), "learning_rate": rate, **describe(step + 1)})
            require_finite(label, step + 1, loss=loss.item())
        checkpoint.save(step + 1, history, **states)
    return history
