"""Joint distillation: one network learns from all teachers at once."""

from __future__ import annotations

import torch
from torch import Tensor

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import DistillationArm
from datafree.distillation.ensemble import TeacherEnsemble, mix
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

    A step takes images of several teachers, augments them, on every other step mixes them, and asks each of these teachers about all
    of them, just as the learner sees them. Episodes do not teach: this is the baseline that meta-learning has to beat. They serve to
    measure how far the teachers' gradients agree.
    """
    optimiser = torch.optim.AdamW(learner.parameters(), lr=arm.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, arm.learning_rate, total_steps=max(arm.steps, 2))
    start, history = checkpoint.restore(learner=learner, optimiser=optimiser, schedule=schedule)
    learner.train()

    # In the order of the pool where all of it is used.
    used = [torch.cat([rows[: arm.images_per_class or None] for rows in class_rows(pool)]).sort().values for pool in ensemble.pools]

    def own_loss(task: int, rng: torch.Generator) -> Tensor:
        views, own = ensemble.views(episode_images(ensemble.pools, episodes, task), rng, arm.augment), episodes.teacher[task].unique()
        return distillation_loss(
            learner.heads(learner.backbone(views), own.tolist()), ensemble.predict(views, own.tolist()), arm.temperature
        )

    for step in progress(range(start, arm.steps), arm.steps - start, "distillation"):
        rng = devices.generator(seed, "distillation", step)
        measured = alignment.due(step, arm.steps)
        cosine = alignment.of_tasks(learner.backbone, episodes, own_loss, seed, step) if measured else {}
        chosen = ensemble.draw_teachers(arm.teachers_per_step, rng)
        rows = [used[t][torch.randint(len(used[t]), (arm.images_per_teacher,), generator=rng)] for t in chosen]
        images = torch.cat([ensemble.pools[t].images[of_teacher] for t, of_teacher in zip(chosen, rows, strict=True)])
        views = ensemble.views(images, rng, arm.augment)
        if arm.mixup and step % 2:
            views = mix(views, rng)
        predictions = ensemble.predict(views, chosen)
        logits = learner.heads(learner.backbone(views), chosen)
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
