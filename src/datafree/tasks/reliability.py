"""Teacher reliability: a sampling weight for each teacher, from recovered pools alone, without real images or training.

Inversion recovers a pool even from a teacher that was trained on random labels, or not at all. Three measures separate such teachers
from sound ones:

- *agreement*: how well the other teachers' features predict the teacher's logits on the pools of the others. They cannot predict a
  function that was fitted to random labels.
- *compactness*: how well the classes of the teacher's own pool separate in its features.
- *recovery*: the teacher's confidence in the labels of its own pool.

Each measure is compared with the median of the zoo, in robust deviations. The decision rests on agreement: a teacher of usual agreement
keeps its full weight. Low agreement alone lowers the weight only if the others' images are in the teacher's domain: their BatchNorm
statistics are close to its running statistics. A sound teacher of another domain also has low agreement, so low agreement is tolerated in
proportion to the distance of the statistics. In a small zoo the deviation is estimated from few teachers: agreement alone must then be as
improbable under Student's t distribution as the thresholds are under a normal one. Where agreement alone does not decide, compactness or
recovery must be low, too; alone they are not sufficient, because compactness is low for teachers of few classes and recovery for weak
ones. A teacher that does not recognise its own pool is dropped in any case, because that pool cannot train a learner; unless this holds
for most of the zoo, which points to the inversion.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.special import ndtri, stdtr  # scipy.stats has both, but takes a second to import

from datafree import devices
from datafree.tasks.pools import Pool, balanced_rows
from datafree.tasks.reliability_measures import agreements, compactness, recovery
from datafree.tasks.shared_images import in_stacks, one_by_one
from datafree.zoo.teachers import Teacher

IMAGES = 800  # of all pools together, on which teachers are compared
PER_TEACHER = (4, 64)  # of these, at least and at most
OWN_IMAGES = 240  # of a teacher's own pool
FOLDS = 4  # of the held-out prediction
SMALLEST_DEVIATION = 0.03  # of a measure: in a uniform zoo small differences are not suspicious
FEWEST_TEACHERS = 4  # with fewer, no comparison
DOMAIN_TOLERANCE = 0.55  # of agreement, per factor of ten by which a teacher's statistics distance exceeds the median
REFERENCE_SCORE = -2.0  # teachers of a higher score determine the median and the deviation
FULL_WEIGHT_SCORE, ZERO_WEIGHT_SCORE = -2.5, -3.5  # weight 1 from the first up, 0 from the second down, linear between
LOWEST_RECOVERY = 0.25  # below it a pool is useless for training


@dataclass(frozen=True)
class TeacherReliability:
    """The sampling weight of one teacher and the measures behind it.

    Attributes:
        name: of the teacher.
        weight: how often the teacher is used relative to the others, 0 (dropped) to 1.
        agreement: share of the variance of its logits on the others' images that the others' features predict, held out; 0 to 1.
        compactness: share of the variance of its features over its own pool that lies between classes; 0 to 1.
        recovery: its mean probability of its own pool's labels, scaled so that chance is 0 and certainty 1.
        statistics_distance: ``BatchNormMatch.distance`` of the other teachers' images, the median over their pools; None without
            BatchNorm layers.
        score: in deviations from the zoo's median: the lower of the agreement plus its tolerance and the second lowest measure,
            but at least the score of the agreement. 0 in a zoo of fewer than ``FEWEST_TEACHERS``.
        reason: why the weight is below 1, in one line; empty at weight 1.
    """

    name: str
    weight: float
    agreement: float
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
    measures = {
        "agreement": agreements([each.features for each in computed], [each.logits for each in computed], owner, fold, device),
        "compactness": [compactness(each.own_features, of_pool) for each, of_pool in zip(computed, labels, strict=True)],
        "recovery": [recovery(each.own_logits, of_pool) for each, of_pool in zip(computed, labels, strict=True)],
    }
    others = [each.distances[:index] + each.distances[index + 1 :] for index, each in enumerate(computed)]
    return assess([teacher.name for teacher in teachers], measures, [statistics.median(found) if found else None for found in others])


def assess(
    names: Sequence[str], measures: Mapping[str, list[float]], statistics_distances: Sequence[float | None]
) -> list[TeacherReliability]:
    """The decision from ``agreement``, ``compactness``, ``recovery`` and statistics distances, each a list in the order of ``names``.

    Medians and deviations are those of the reference teachers: initially all that recognise their pools, then, repeatedly, those whose
    score exceeds ``REFERENCE_SCORE``, until none is removed; never fewer than half.
    """
    tolerances = domain_tolerances(statistics_distances)
    reference = [index for index, value in enumerate(measures["recovery"]) if value >= LOWEST_RECOVERY]
    comparable = 2 * len(reference) >= len(names)
    while True:
        usual = {name: median_and_deviation([values[index] for index in reference]) for name, values in measures.items()}
        deviations = {name: [(value - usual[name][0]) / usual[name][1] for value in values] for name, values in measures.items()}
        scores = []
        for lack, tolerance, three in zip(deviations["agreement"], tolerances, zip(*deviations.values(), strict=True), strict=True):
            alone = normal_score(lack + tolerance / usual["agreement"][1], len(reference))
            scores.append(max(lack, min(alone, sorted(three)[1])))
        remaining = [index for index in reference if scores[index] > REFERENCE_SCORE]
        if remaining == reference or 2 * len(remaining) < len(names):
            break
        reference = remaining
    if len(reference) < FEWEST_TEACHERS or not comparable:
        scores = [0.0] * len(names)
    results = []
    for index, name in enumerate(names):
        own = {measure: values[index] for measure, values in measures.items()}
        weight = min(max((scores[index] - ZERO_WEIGHT_SCORE) / (FULL_WEIGHT_SCORE - ZERO_WEIGHT_SCORE), 0.0), 1.0)
        reason = ""
        if comparable and own["recovery"] < LOWEST_RECOVERY:
            weight, reason = 0.0, f"it does not recognise its own pool (recovery {own['recovery']:.2f}); is it trained?"
        elif weight < 1:
            low = [measure for measure in measures if deviations[measure][index] <= FULL_WEIGHT_SCORE]
            reason = " and ".join(f"{measure} {own[measure]:.2f} (median of the zoo: {usual[measure][0]:.2f})" for measure in low)
        distance, score = statistics_distances[index], scores[index]
        results.append(TeacherReliability(name, weight, **own, statistics_distance=distance, score=score, reason=reason))
    return results


def most_pools_unrecognised(results: Sequence[TeacherReliability]) -> bool:
    """Whether most teachers do not recognise their own pools: the cause is then the inversion, or the whole zoo."""
    return 2 * sum(result.recovery >= LOWEST_RECOVERY for result in results) < len(results)


def domain_tolerances(statistics_distances: Sequence[float | None]) -> list[float]:
    """How far below the median each teacher's agreement may be because the others' images are out of its domain.

    It grows with the logarithm of the statistics distance above the median; infinite where the distance is unknown (no BatchNorm).
    """
    known = [math.log10(max(value, 1e-12)) for value in statistics_distances if value is not None]
    usual = statistics.median(known) if known else 0.0
    return [
        math.inf if value is None else DOMAIN_TOLERANCE * max(math.log10(max(value, 1e-12)) - usual, 0.0) for value in statistics_distances
    ]


def normal_score(deviations: float, count: int) -> float:
    """Convert a score in estimated deviations to the score with the same tail probability under a normal distribution.

    The deviation is estimated from ``count`` values, so the score follows Student's t; its degrees of freedom are half of
    ``count``, because ``median_and_deviation`` uses only the upper half of the values.
    """
    return float(ndtri(stdtr(max(count // 2, 1), deviations)))


def median_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Median and robust deviation, at least ``SMALLEST_DEVIATION``; (0, 1) for no values.

    The deviation is 1.4826 median absolute deviations (the standard deviation, for a normal distribution) of the upper half alone:
    unreliable teachers are all below the median, and would increase a deviation computed from all values.
    """
    if not values:
        return 0.0, 1.0
    median = statistics.median(values)
    return median, max(1.4826 * statistics.median(value - median for value in values if value >= median), SMALLEST_DEVIATION)
