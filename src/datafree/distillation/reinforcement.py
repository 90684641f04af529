"""Making reinforced pools: views of recovered images, and one query of every used teacher about each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from datafree import devices
from datafree.checkpoints import Checkpoint, SavedState
from datafree.config import FEW_CLASSES, MOST_FEATURES, ReinforcementConfig
from datafree.distillation.ensemble import TeacherEnsemble, mixup_shares
from datafree.distillation.reinforced_pools import ReinforcedPools
from datafree.progress import progress
from datafree.zoo.logits import at_least_float32
from datafree.zoo.similarity import features_weight, root_of
from datafree.zoo.teacher_passes import passes
from datafree.zoo.teachers import Teacher
from datafree.zoo.training import logits_of

CHUNK = 64  # views that are made, or predicted by one teacher, together: few enough for the caches of a CPU
LOWEST = -60.0  # log-probability; float16 holds smaller ones, but a softmax in float32 may be 0


@torch.no_grad()
def reinforce(ensemble: TeacherEnsemble, config: ReinforcementConfig, seed: int, checkpoint: Checkpoint) -> ReinforcedPools:
    """Views of all images of the used teachers' pools, with the predictions of all used teachers; those of sampling weight 0 are left out.

    The views depend only on the images and the seed. Teachers are queried about the stored uint8 views, teacher by teacher; a checkpoint
    holds the predictions of those that are done.
    """
    used, classes = ensemble.reliable, ensemble.used_classes
    views = make_views(ensemble, used, config, seed)
    flat = views.flatten(0, 1)
    counts = [classes[index] for index in used]
    done, saved = torch.zeros(len(used), dtype=torch.bool), SavedState()
    predictions = torch.zeros(len(flat), sum(counts), dtype=torch.float16)
    if checkpoint.restore(saved=saved)[0]:
        predictions, done = saved.values["predictions"], saved.values["done"]
    columns = torch.arange(sum(counts)).split(counts)
    waiting = torch.nonzero(~done).flatten().tolist()
    of_waiting = _log_probabilities([ensemble.teachers[used[place]] for place in waiting], flat, ensemble.device, ensemble.together)
    for number, (member, values) in enumerate(progress(of_waiting, len(waiting), "predictions of the views"), 1):
        predictions[:, columns[waiting[member]]] = values
        done[waiting[member]] = True
        saved.values = {"predictions": predictions, "done": done}
        checkpoint.save(number, [], saved=saved)
    images = tuple(len(pool.images) if count else 0 for pool, count in zip(ensemble.pools, classes, strict=True))
    relations = _relations([ensemble.teachers[index] for index in used], flat, ensemble.device, seed) if sum(counts) < FEW_CLASSES else None
    return ReinforcedPools(
        views,
        predictions.unflatten(0, views.shape[:2]),
        config.views,
        images,
        tuple(classes),
        None if relations is None else relations.unflatten(0, views.shape[:2]),
    )


def _relations(teachers: Sequence[Teacher], views: Tensor, device: torch.device, seed: int) -> Tensor:
    """The teachers' root features of views uint8 [V, C, H, W], weighted as in their read-out side by side: float16 [V, F] on the CPU."""
    weight = features_weight(sum(len(teacher.classes) for teacher in teachers))
    total = sum(teacher.network.backbone.feature_size for teacher in teachers)
    mixing = None
    if total > MOST_FEATURES:
        mixing = torch.randn(total, MOST_FEATURES, generator=devices.generator(seed, "projection")) / MOST_FEATURES**0.5
    relations = torch.empty(len(views), min(total, MOST_FEATURES), dtype=torch.float16)
    for part, stored in zip(views.split(CHUNK), relations.split(CHUNK), strict=True):
        images = devices.moved(part, device)
        features = [at_least_float32(teacher.network.backbone(teacher.normalise(images))) for teacher in teachers]
        joined = weight * torch.cat([root_of(values) for values in features], 1).float().cpu()
        with torch.autocast("cpu", enabled=False):  # the precision of the networks is none for a projection
            stored.copy_(joined if mixing is None else joined @ mixing)
    return relations


def make_views(ensemble: TeacherEnsemble, used: Sequence[int], config: ReinforcementConfig, seed: int) -> Tensor:
    """Views uint8 [views + mixed views, N, C, H, W] of the N images of the ``used`` teachers' pools, in order.

    A mixed view is λ x_i + (1 − λ) x_j of augmented views of two images (mixup); x_j is any image of the pools.
    """
    positions = torch.tensor([(index, row) for index in used for row in range(len(ensemble.pools[index].images))])
    rounds = []
    for number in range(config.views + config.mixed_views):
        parts = []
        for first, part in enumerate(positions.split(CHUNK)):
            rng = devices.generator(seed, "reinforced views", number, first)
            views = _augmented(ensemble, part, config, rng)
            if number >= config.views:
                partners = positions[torch.randint(len(positions), (len(part),), generator=rng)]
                share = mixup_shares(views, rng)
                views = share * views + (1 - share) * _augmented(ensemble, partners, config, rng)
            parts.append(ensemble.as_images(views).round().clamp(0, 255).to(torch.uint8).cpu())
        rounds.append(torch.cat(parts))
    return torch.stack(rounds)


def _augmented(ensemble: TeacherEnsemble, positions: Tensor, config: ReinforcementConfig, rng: torch.Generator) -> Tensor:
    return ensemble.views(ensemble.images.at(positions[:, 0], positions[:, 1:]), rng, config.augment)


def _log_probabilities(teachers: Sequence[Teacher], views: Tensor, device: torch.device, together: bool) -> Iterator[tuple[int, Tensor]]:
    """(position of the teacher, its log-probabilities float16 [V, classes] on the CPU), for views uint8 [V, C, H, W]."""
    if not together:
        for member, teacher in enumerate(teachers):
            yield member, _stored(logits_of(teacher.network, teacher.normalise, views, device, CHUNK))
        return
    for members, stack, size in passes(teachers, 1):
        logits = torch.cat([_stored(stack.networks(stack.normalise(devices.moved(part, device)))) for part in views.split(size)], 1)
        # A stack has as many logits per teacher as its largest teacher has classes.
        yield from ((member, values[:, : len(teachers[member].classes)]) for member, values in zip(members, logits, strict=True))


def _stored(logits: Tensor) -> Tensor:
    return at_least_float32(logits).log_softmax(-1).clamp_min(LOWEST).half().cpu()
