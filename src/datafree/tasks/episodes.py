"""Few-shot episodes over recovered pools, as index arrays: classes with their support and query images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datafree import devices
from datafree.config import TasksConfig
from datafree.errors import UserError
from datafree.tasks.pools import Pool, PoolImages, class_rows


@dataclass(frozen=True)
class Episodes:
    """Index arrays, int64. Position w of episode e is class ``label[e, w]`` of teacher ``teacher[e, w]``.

    ``index`` [E, way, shot + query] holds positions in that teacher's pool: the first ``shot`` are support, the rest query; no image
    occurs twice in an episode. ``teacher`` and ``label`` are [E, way].
    """

    index: Tensor
    teacher: Tensor
    label: Tensor
    shot: int

    def __len__(self) -> int:
        return len(self.index)


def sample_episodes(pools: Sequence[Pool], weights: Sequence[float], config: TasksConfig, seed: int) -> Episodes:
    """Sample ``config.episodes`` episodes; a share ``config.mixed`` of them has classes of several teachers, the rest of one.

    Teachers are sampled in proportion to ``weights`` (one per pool, at least 0, at least one positive). Teachers may share classes: a
    mixed episode never holds two classes of the same name, which would be one class under two labels.

    Raises:
        UserError: a class has too few images, or a teacher too few classes.
    """
    rows = [class_rows(pool) for pool in pools]
    smallest = min(len(positions) for members in rows for positions in members)
    if config.shot + config.query > smallest:
        raise UserError(
            f"tasks.query: {config.query} and {config.shot} shots need more images than a class has, {smallest}; "
            f"lower one or raise inversion.images_per_class"
        )
    if config.way > min(len(pool.classes) for pool in pools):
        few = min(pools, key=lambda pool: len(pool.classes))
        raise UserError(f"tasks.way: got {config.way}; allowed: at most {len(few.classes)}, the classes of the smallest teacher")
    rng = devices.generator(seed, "episodes")
    sampling_weights = torch.tensor(weights, dtype=torch.float64)
    mixed_count = round(config.mixed * config.episodes) if (sampling_weights > 0).sum() > 1 else 0
    classes = [
        _mixed_classes(pools, sampling_weights, config.way, rng)
        if episode < mixed_count
        else _classes_of_one_teacher(pools, sampling_weights, config.way, rng)
        for episode in torch.randperm(config.episodes, generator=rng).tolist()
    ]
    teacher = torch.tensor([[t for t, _ in pairs] for pairs in classes])
    label = torch.tensor([[c for _, c in pairs] for pairs in classes])
    index = torch.stack([torch.stack([_images(rows[t][c], config.shot + config.query, rng) for t, c in pairs]) for pairs in classes])
    return Episodes(index, teacher, label, config.shot)


def episode_images(images: PoolImages, episodes: Episodes, task: int) -> Tensor:
    """The images of one episode, uint8 [way · (shot + query), C, H, W]: class by class, support before queries."""
    return images.at(episodes.teacher[task], episodes.index[task])


def _classes_of_one_teacher(pools: Sequence[Pool], sampling_weights: Tensor, way: int, rng: torch.Generator) -> list[tuple[int, int]]:
    (teacher,) = sample_teachers(sampling_weights, 1, rng)
    return [(teacher, label) for label in torch.randperm(len(pools[teacher].classes), generator=rng)[:way].tolist()]


def _mixed_classes(pools: Sequence[Pool], sampling_weights: Tensor, way: int, rng: torch.Generator) -> list[tuple[int, int]]:
    """(teacher, label) of ``way`` classes of different names: rounds over the teachers, one class of each, in random weighted order."""
    names: set[str] = set()
    pairs: list[tuple[int, int]] = []
    while len(pairs) < way:
        for teacher in sample_teachers(sampling_weights, len(pools), rng):
            free = [label for label, name in enumerate(pools[teacher].classes) if name not in names]
            if len(pairs) < way and free:
                label = free[int(torch.randint(len(free), (), generator=rng))]
                names.add(pools[teacher].classes[label])
                pairs.append((teacher, label))
    return pairs


def sample_teachers(sampling_weights: Tensor, count: int, rng: torch.Generator) -> list[int]:
    """At most ``count`` teachers, sampled one after the other without replacement by ``sampling_weights`` [teachers]; none of weight 0."""
    return torch.multinomial(sampling_weights, min(count, int((sampling_weights > 0).sum())), generator=rng).tolist()


def _images(positions: Tensor, count: int, rng: torch.Generator) -> Tensor:
    return positions[torch.randperm(len(positions), generator=rng)[:count]]
