"""MAML and ANIL: learn an initialisation from which a few gradient steps solve a task, with optional distillation."""

from __future__ import annotations

import torch
from torch import Tensor

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import MamlArm
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.losses import SMALLEST_PROBABILITY
from datafree.meta import alignment
from datafree.meta.learner import Learner
from datafree.meta.query_loss import TaskSoftLabels, add_query_gradients, query_loss
from datafree.meta.task_stacks import TaskStack
from datafree.progress import progress, require_finite
from datafree.tasks.episodes import Episodes, episode_images


def train(
    learner: Learner, ensemble: TeacherEnsemble, episodes: Episodes, arm: MamlArm, seed: int, checkpoint: Checkpoint
) -> list[dict[str, float]]:
    """Train the backbone of ``learner`` in place; Finn et al., ICML 2017, and Raghu et al. (ANIL), ICLR 2020.

    A step averages the query losses of several tasks, each after its own inner steps, and differentiates them with respect to the
    initialisation: through the inner steps, or as if these were constant (``second_order: false``). Support and queries pass through
    BatchNorm separately, each normalised by its own batch statistics; the running statistics average over both.

    With ``arm.distillation`` above 0 the inner and the outer loss include distillation from the task's teacher: the bi-level distillation
    of BiDf-MKD (Hu et al., ICML 2023), with a true KL divergence. Tasks of several teachers' classes use labels alone.
    """
    optimiser = torch.optim.AdamW(learner.backbone.parameters(), lr=arm.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, arm.learning_rate, total_steps=max(arm.steps, 2))
    start, history = checkpoint.restore(learner=learner, optimiser=optimiser, schedule=schedule)
    learner.train()

    stack = TaskStack.of(learner.backbone, ensemble.together and arm.tasks_per_step > 1)
    rule = (episodes.shot, arm.adaptation, arm.inner_steps, arm.second_order)

    def sample(task: int, rng: torch.Generator) -> tuple[Tensor, TaskSoftLabels | None]:
        views = ensemble.views(episode_images(ensemble.images, episodes, task), rng, arm.augment)
        soft = task_soft_labels(ensemble, episodes, task, views, arm) if arm.distillation else None
        return views.unflatten(0, (episodes.index.shape[1], -1)), soft

    def task_loss(task: int, rng: torch.Generator) -> Tensor:
        views, soft = sample(task, rng)
        return query_loss(learner.backbone, views, *rule, soft)[0]

    for step in progress(range(start, arm.steps), arm.steps - start, arm.method):
        rng = devices.generator(seed, arm.method, step)
        row = {"step": step + 1, "query_loss": 0.0, "query_accuracy": 0.0}
        if alignment.is_measured(step, arm.steps):
            row |= alignment.task_gradient_cosine(learner.backbone, episodes, task_loss, seed, step)
        optimiser.zero_grad(set_to_none=True)
        tasks = torch.randint(len(episodes), (arm.tasks_per_step,), generator=rng).tolist()
        results = add_query_gradients(learner.backbone, stack, (sample(task, rng) for task in tasks), *rule, arm.tasks_per_step)
        optimiser.step()
        schedule.step()
        row["query_loss"], row["query_accuracy"] = results.mean(0).tolist()  # read once, because it waits for a GPU
        require_finite(arm.method, step + 1, query_loss=row["query_loss"])
        history.append(row)
        checkpoint.save(step + 1, history, learner=learner, optimiser=optimiser, schedule=schedule)
    return history


def task_soft_labels(ensemble: TeacherEnsemble, episodes: Episodes, task: int, views: Tensor, arm: MamlArm) -> TaskSoftLabels | None:
    """The teacher's soft labels for a task's views [way · (shot + query), C, H, W]; None if its classes are of several teachers."""
    teachers, labels = episodes.teacher[task].unique().tolist(), episodes.label[task]
    if len(teachers) > 1:
        return None
    predicted = ensemble.predict(views, teachers)[:, 0, devices.moved(labels, views.device)].clamp_min(SMALLEST_PROBABILITY)
    probabilities = (predicted / predicted.sum(1, keepdim=True)).unflatten(0, (len(labels), -1))
    return TaskSoftLabels(probabilities, arm.distillation, arm.temperature)
