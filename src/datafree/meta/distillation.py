"""Joint distillation: one student learns from all teachers at once."""

from __future__ import annotations

import torch
from torch import Tensor

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import DistillationArm
from datafree.distillation.ensemble import TeacherEnsemble, mixup
from datafree.distillation.losses import distillation_loss
from datafree.meta import alignment
from datafree.meta.learner import Learner
from datafree.progress import progress, require_finite
from datafree.tasks.episodes import Episodes, episode_images
from datafree.tasks.pools import class_rows


def train(
    learner: Learner, ensemble: TeacherEnsemble, episodes: Episodes, arm: DistillationArm, seed: int, checkpoint: Checkpoint
) -> list[dict[str, float]]:
    """Distil every teacher into the learner's shared backbone, each through its own head; changes ``learner`` in place.

    A step samples images of several teachers, augments them, applies mixup on every other step, and queries each of these teachers about
    all resulting views. This is the baseline for meta-learning: episodes serve only to measure the alignment of the teachers' gradients.
    """
    optimiser = torch.optim.AdamW(learner.parameters(), lr=arm.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, arm.learning_rate, total_steps=max(arm.steps, 2))
    start, history = checkpoint.restore(learner=learner, optimiser=optimiser, schedule=schedule)
    learner.train()

    # Sorted, so that the order is that of the pool if all of it is used.
    used_rows = [torch.cat([rows[: arm.images_per_class] for rows in class_rows(pool)]).sort().values for pool in ensemble.pools]

    def task_loss(task: int, rng: torch.Generator) -> Tensor:
        views, teachers = ensemble.views(episode_images(ensemble.images, episodes, task), rng, arm.augment), episodes.teacher[task].unique()
        return distillation_loss(
            learner.heads(learner.backbone(views), teachers.tolist()), ensemble.predict(views, teachers.tolist()), arm.temperature
        )

    for step in progress(range(start, arm.steps), arm.steps - start, "distillation"):
        rng = devices.generator(seed, "distillation", step)
        measured = alignment.is_measured(step, arm.steps)
        cosine = alignment.task_gradient_cosine(learner.backbone, episodes, task_loss, seed, step) if measured else {}
        queried = ensemble.sample_teachers(arm.teachers_per_step, rng)
        rows = [used_rows[t][torch.randint(len(used_rows[t]), (arm.images_per_teacher,), generator=rng)] for t in queried]
        views = ensemble.views(ensemble.images.at(torch.tensor(queried), torch.stack(rows)), rng, arm.augment)
        if arm.mixup and step % 2:
            views = mixup(views, rng)
        predictions = ensemble.predict(views, queried)
        logits = learner.heads(learner.backbone(views), queried)
        loss = distillation_loss(logits, predictions, arm.temperature)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 10 == 0 or measured:
            agreement = (logits.argmax(-1) == predictions.argmax(-1)).float().mean().item()
            history.append({"step": step + 1, "distillation": loss.item(), "agreement": agreement, **cosine})
            require_finite("distillation", step + 1, loss=loss.item())
        checkpoint.save(step + 1, history, learner=learner, optimiser=optimiser, schedule=schedule)
    return history
