"""Teacher reliability: a sampling weight for each teacher, from recovered pools alone, without real images or training.

Inversion recovers a pool even from a teacher that was trained on random labels, or not at all. Four measures separate such teachers
from sound ones:

- *explained variance*: how much of the variance of the teacher's predictions on the pools of the others follows the others' features. After
  a short training on random labels the predictions are uncertain and hardly vary; after a longer one they vary without relation to the
  others' features.
- *agreement*: the same as a share of the variance of the logits, so that certainty does not matter.
- *compactness*: how well the classes of the teacher's own pool separate in its features.
- *recovery*: the teacher's confidence in the labels of its own pool.

Each measure is divided by the median of the zoo. The scatter of the zoo does not enter, because it cannot be estimated from few teachers.
If compactness or recovery is low, explained variance decides: a teacher of less than half the usual one loses its weight. If neither is,
agreement must be as low, too. So a sound teacher of another domain keeps its weight: the others' images are not in its domain, and its
predictions for them are often uncertain. Its agreement can be low as well; it is multiplied by the distance of the images' BatchNorm
statistics to the teacher's running statistics, relative to the median. A teacher that does not recognise its own pool is dropped in any
case, because that pool cannot train a learner.

No teacher is judged in a zoo of few teachers, because nothing is usual there, nor if most teachers do not recognise their own pools, which
points to the inversion. A teacher of uncertain predictions, because it was trained for a short time, cannot be told from one that was
trained on random labels.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from datafree import devices
from datafree.tasks.pools import Pool, balanced_rows
from datafree.tasks.reliability_measures import agreements, compactness, recovery
from datafree.tasks.shared_images import in_stacks, one_by_one
from datafree.zoo.teachers import Teacher

IMAGES = 800  # of all pools together, on which teachers are compared
PER_TEACHER = (4, 64)  # of these, at least and at most
OWN_IMAGES = 240  # of a teacher's own pool
FOLDS = 4  # of the held-out prediction
FEWEST_TEACHERS = 5  # with fewer, no comparison
FULL_WEIGHT_SCORE, ZERO_WEIGHT_SCORE = 0.45, 0.4  # weight 1 from the first up, 0 from the second down, linear between
LOW = 0.8  # compactness and recovery are low below this multiple of the median
LOWEST_RECOVERY = 0.25  # below it a pool is useless for training


@dataclass(frozen=True)
class TeacherReliability:
    """The sampling weight of one teacher and the measures behind it.

    Attributes:
        name: of the teacher.
        weight: how often the teacher is used relative to the others, 0 (dropped) to 1.
        agreement: share of the variance of its logits on the others' images that the others' features predict, held out; 0 to 1.
        explained_variance: variance of its probabilities on these images that the others' features predict, held out; 0 to 1, which only
            certain predictions reach.
        compactness: share of the variance of its features over its own pool that lies between classes; 0 to 1.
        recovery: its mean probability of its own pool's labels, scaled so that chance is 0 and certainty 1.
        statistics_distance: ``BatchNormMatch.distance`` of the other teachers' images, the median over their pools; None without
            BatchNorm layers.
        score: explained variance in medians of the zoo; if neither compactness nor recovery is low, at least the agreement in medians,
            multiplied by ``domain_factors``, up to 1. 1 if the teachers are not judged.
        reason: why the weight is below 1, in one line; empty at weight 1.
    """

    name: str
    weight: float
    agreement: float
    explained_variance: float
    compactness: float
    recovery: float
    statistics_distance: float | None
    score: float
    reason: str

    @property
    def warning(self) -> str:
        """One line for the log; empty for a teacher of full weight."""
        if not self.reason:
            return ""
        use = "dropped" if self.weight == 0 else f"sampled with weight {self.weight:.2f}"
        return f"teacher {self.name} is {use}: {self.reason}"


@torch.no_grad()
def teacher_reliability(
    pools: Sequence[Pool], teachers: Sequence[Teacher], *, seed: int, device: torch.device | str = "cpu", together: bool = False
) -> list[TeacherReliability]:
    """The reliability of each teacher; ``pools`` are theirs, in the same order. Teachers are on ``device``; inputs and classes may differ.

    ``together``: all teachers of one architecture are computed in one pass. Cost: ``IMAGES`` forward passes per teacher (more from 200
    teachers on), and ``FOLDS`` solutions of a linear system of that size.
    """
    rng = devices.generator(seed, "trust")
    sample = min(max(IMAGES // len(pools), PER_TEACHER[0]), PER_TEACHER[1])
    shared = [pool.images[balanced_rows(pool.labels, sample, rng)] for pool in pools]
    rows = [balanced_rows(pool.labels, OWN_IMAGES, rng) for pool in pools]
    own = [pool.images[of_pool] for pool, of_pool in zip(pools, rows, strict=True)]
    fold = torch.randint(FOLDS, (sum(map(len, shared)),), generator=rng)
    computed = in_stacks(teachers, shared, own) if together else one_by_one(teachers, shared, own, device)
    owner = torch.arange(len(pools)).repeat_interleave(torch.tensor([len(images) for images in shared]))
    labels = [pool.labels[of_pool] for pool, of_pool in zip(pools, rows, strict=True)]
    predicted = agreements([each.features for each in computed], [each.logits for each in computed], owner, fold, device)
    measures = {
        "agreement": [share for share, _ in predicted],
        "explained_variance": [variance for _, variance in predicted],
        "compactness": [compactness(each.own_features, of_pool) for each, of_pool in zip(computed, labels, strict=True)],
        "recovery": [recovery(each.own_logits, of_pool) for each, of_pool in zip(computed, labels, strict=True)],
    }
    others = [each.distances[:index] + each.distances[index + 1 :] for index, each in enumerate(computed)]
    return assess([teacher.name for teacher in teachers], measures, [statistics.median(found) if found else None for found in others])


def assess(
    names: Sequence[str], measures: Mapping[str, list[float]], statistics_distances: Sequence[float | None]
) -> list[TeacherReliability]:
    """The decision from the measures by name (those of ``TeacherReliability``) and the statistics distances, in the order of ``names``.

    Medians are those of the teachers that recognise their pools.
    """
    judged = not why_not_judged(measures["recovery"])
    reference = [index for index, value in enumerate(measures["recovery"]) if value >= LOWEST_RECOVERY]
    usual = {name: statistics.median([values[index] for index in reference] or [0.0]) for name, values in measures.items()}
    factors = domain_factors(statistics_distances, reference)
    results = []
    for index, teacher in enumerate(names):
        own = {measure: values[index] for measure, values in measures.items()}
        low = [measure for measure in ("compactness", "recovery") if own[measure] < LOW * usual[measure]]
        weight, score, reason = 1.0, 1.0, ""
        if judged:
            agreement, score = (max(own[name], 1e-12) / max(usual[name], 1e-12) for name in ("agreement", "explained_variance"))
            score = score if low else max(score, min(agreement * factors[index], 1.0))
            weight = min(max((score - ZERO_WEIGHT_SCORE) / (FULL_WEIGHT_SCORE - ZERO_WEIGHT_SCORE), 0.0), 1.0)
        if judged and own["recovery"] < LOWEST_RECOVERY:
            weight, reason = 0.0, f"it does not recognise its own pool (recovery {own['recovery']:.2f}); is it trained?"
        elif weight < 1:
            reason = " and ".join(
                f"{name.replace('_', ' ')} {own[name]:.2f} (median of the zoo: {usual[name]:.2f})"
                for name in ("explained_variance", *(low or ["agreement"]))
            )
        distance = statistics_distances[index]
        results.append(TeacherReliability(teacher, weight, **own, statistics_distance=distance, score=score, reason=reason))
    return results


def why_not_judged(recoveries: Sequence[float]) -> str:
    """Why no teacher is judged, in one line; empty if the teachers can be compared. ``recoveries``: the ``recovery`` of each teacher."""
    if len(recoveries) < FEWEST_TEACHERS:
        return f"a comparison takes at least {FEWEST_TEACHERS} teachers, and the zoo has {len(recoveries)}"
    if 2 * sum(value >= LOWEST_RECOVERY for value in recoveries) < len(recoveries):  # the cause is the inversion, or the whole zoo
        return "most teachers do not recognise their own pools; check the zoo, or give the inversion method more steps"
    return ""


def domain_factors(statistics_distances: Sequence[float | None], reference: Sequence[int]) -> list[float]:
    """For each teacher its statistics distance in medians of the ``reference`` teachers, at least 1; infinite where it is unknown.

    The others' images are as far out of the teacher's domain; its agreement is lower for that reason.
    """
    known = [distance for index in reference if (distance := statistics_distances[index]) is not None]
    usual = max(statistics.median(known or [0.0]), 1e-12)
    return [math.inf if distance is None else max(distance / usual, 1.0) for distance in statistics_distances]
