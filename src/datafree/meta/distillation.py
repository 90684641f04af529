"""Joint distillation: one student learns from all teachers at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import DistillationArm, Queried
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.objectives import distillation_terms, total
from datafree.meta import alignment
from datafree.meta.learner import Learner
from datafree.progress import progress, require_finite
from datafree.tasks.episodes import Episodes
from datafree.tasks.pools import class_rows


def train(
    learner: Learner, ensemble: TeacherEnsemble, episodes: Episodes, arm: DistillationArm, seed: int, checkpoint: Checkpoint
) -> list[dict[str, float]]:
    """Distil every teacher into the learner's shared backbone, each through its own head; changes ``learner`` in place.

    A step samples images of several teachers and learns from the predictions of all teachers, or of these, for a view of each; on every
    other step the views mix two images (mixup). This is the baseline for meta-learning: episodes serve only to measure the alignment of
    the teachers' gradients.
    """
    optimiser = torch.optim.AdamW(learner.parameters(), lr=arm.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, arm.learning_rate, total_steps=max(arm.steps, 2))
    start, history = checkpoint.restore(learner=learner, optimiser=optimiser, schedule=schedule)
    learner.train()

    # Sorted, so that the order is that of the pool if all of it is used.
    used_rows = [torch.cat([rows[: arm.images_per_class] for rows in class_rows(pool)]).sort().values for pool in ensemble.pools]

    def terms(views: Tensor, predictions: Tensor, relations: Tensor | None, queried: list[int]) -> tuple[dict[str, Tensor], Tensor]:
        features, logits = learner(views, queried)
        return distillation_terms(features, logits, predictions, arm.temperature, arm.relational, relations), logits

    def task_loss(task: int, rng: torch.Generator) -> Tensor:
        queried = episodes.teacher[task].unique().tolist()
        views = ensemble.queried_views(episodes.teacher[task], episodes.index[task], queried, rng, augment=arm.augment)
        return total(terms(*views, queried)[0])

    for step in progress(range(start, arm.steps), arm.steps - start, "distillation"):
        rng = devices.generator(seed, "distillation", step)
        measured = alignment.is_measured(step, arm.steps)
        cosine = alignment.task_gradient_cosine(learner.backbone, episodes, task_loss, seed, step) if measured else {}
        pools, rows = sample_images(ensemble, used_rows, arm, rng)
        queried = ensemble.reliable if arm.queried is Queried.all else pools.unique().tolist()
        mixed = arm.mixup and step % 2 == 1
        views, predictions, relations = ensemble.queried_views(pools, rows, queried, rng, augment=arm.augment, mixed=mixed)
        losses, logits = terms(views, predictions, relations, queried)
        optimiser.zero_grad(set_to_none=True)
        total(losses).backward()
        optimiser.step()
        schedule.step()
        if step % 10 == 0 or measured:
            values = {name: loss.item() for name, loss in losses.items()}
            agreement = (logits.argmax(-1) == predictions.argmax(-1)).float().mean().item()
            history.append({"step": step + 1, **values, "agreement": agreement, **cosine})
            require_finite("distillation", step + 1, **values)
        checkpoint.save(step + 1, history, learner=learner, optimiser=optimiser, schedule=schedule)
    return history


def sample_images(
    ensemble: TeacherEnsemble, used_rows: Sequence[Tensor], arm: DistillationArm, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The images of a step: pools int64 [G], and rows of each int64 [G, n], of those in ``used_rows`` of every pool.

    Pools are sampled in proportion to the weights of their teachers: one for every image, or ``arm.teachers_per_step`` different ones with
    as many images of each.
    """
    if arm.teachers_per_step is None:
        pools = torch.multinomial(ensemble.sampling_weights, arm.batch_size, replacement=True, generator=rng)
        each = 1
    else:
        pools = torch.tensor(ensemble.sample_teachers(arm.teachers_per_step, rng))
        each = max(1, arm.batch_size // len(pools))
    rows = [used_rows[pool][torch.randint(len(used_rows[pool]), (each,), generator=rng)] for pool in pools.tolist()]
    return pools, torch.stack(rows)
