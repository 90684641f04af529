"""Which teachers of a zoo can be trusted, from their recovered pools alone: no real image is seen, nothing is trained.

A teacher that learned random labels, or nothing, still has a pool: inversion finds images that it calls by any name. Three signs tell it
from the others:

- *agreement*: what a teacher says of the other teachers' images follows from what the others see in them. Labels without meaning leave
  a function that nothing the others know predicts.
- *compactness*: the recovered images of one class lie together in the teacher's own features.
- *recovery*: the teacher is sure of the labels of its own pool.

Each is compared to the zoo by its median and a robust deviation. No teacher is dropped or used less whose agreement is usual. Low
agreement alone decides where the others' images are familiar to a teacher: their statistics are those that its BatchNorm layers remember.
A sound teacher of another domain agrees little, too, but the images are strange to it, which excuses it. In a small zoo the deviation is
known from few teachers, so agreement alone must be as improbable by Student's t distribution as the limits are by a normal one.
Compactness is low for teachers of few classes as well, and recovery for weak ones: beside low agreement one of the two must be low where
agreement alone does not decide. A teacher that does not recognise its own pool at all is dropped by that alone, as that pool would teach
nothing; unless most of the zoo are like that, which is the inversion's fault.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.special import ndtri, stdtr  # scipy.stats has both, but takes a second to import
from torch import Tensor

from datafree import devices
from datafree.inversion.losses import BatchNormMatch
from datafree.tasks.pools import Pool
from datafree.zoo.teachers import Teacher

IMAGES = 800  # of all pools together, on which teachers are compared
PER_TEACHER = (4, 64)  # of these, at least and at most
OWN_IMAGES = 240  # of a teacher's own pool
FOLDS = 4
RIDGE = 0.01  # in units of the kernel's mean diagonal
FLOOR = 0.03  # smallest deviation of a sign: an even zoo is no reason for suspicion
FEWEST = 4  # teachers below which a median says nothing
EXCUSE = 0.55  # of agreement, per factor of ten by which the others' images are stranger to a teacher than to the median one
ORDINARY = -2.0  # score above which a teacher takes part in the median and deviation
KEPT, DROPPED = -2.5, -3.5  # scores: full weight from the first, none below the second
RECOGNISED = 0.25  # recovery below which a pool teaches nothing


@dataclass(frozen=True)
class TeacherReliability:
    """How far one teacher is trusted, and why.

    Attributes:
        name: the teacher's.
        weight: 0 (drop it) to 1 (as good as any); how often to ask it, relative to others.
        agreement: share of the variance of its logits on the others' images that the others' features predict, held out; 0 to 1.
        compactness: share of the variance of its features over its own pool that lies between classes; 0 to 1.
        recovery: its mean probability of its own pool's labels, scaled so that guessing is 0 and certainty 1.
        strangeness: ``batch_norm_distance`` of the other teachers' images, the median over their pools; None without BatchNorm layers.
        score: distance from the zoo's median, in deviations: of the agreement as far as it is not excused, or the second lowest of the
            three signs if that is lower; at least that of the agreement. 0 in a zoo of fewer than ``FEWEST``.
        reason: what condemns it, in one line; empty at weight 1.
    """

    name: str
    weight: float
    agreement: float
    compactness: float
    recovery: float
    strangeness: float | None
    score: float
    reason: str

    @property
    def warning(self) -> str:
        """One line for the log; empty for a teacher of full weight."""
        if not self.reason:
            return ""
        fate = "dropped" if self.weight == 0 else f"asked with weight {self.weight:.2f}"
        return f"teacher {self.name} is {fate}: {self.reason}"


@torch.no_grad()
def teacher_weights(
    pools: Sequence[Pool], teachers: Sequence[Teacher], *, seed: int, device: torch.device | str = "cpu"
) -> list[TeacherReliability]:
    """Trust in each teacher; ``pools`` are theirs, in one order. The teachers are on ``device``; their inputs and classes may differ.

    Cost: ``IMAGES`` forward passes per teacher (more from 200 teachers on), and ``FOLDS`` solutions of a linear system of that size.
    """
    rng = devices.generator(seed, "trust")
    sample = min(max(IMAGES // len(pools), PER_TEACHER[0]), PER_TEACHER[1])
    shared = [pool.images[balanced_rows(pool.labels, sample, rng)] for pool in pools]
    owner = torch.arange(len(pools)).repeat_interleave(torch.tensor([len(images) for images in shared]))
    kernels, answers, strange = [], [], []
    measured: dict[str, list[float]] = {"compactness": [], "recovery": []}
    for place, (teacher, pool) in enumerate(zip(teachers, pools, strict=True)):
        with BatchNormMatch(teacher.network) as match:
            seen, distances = [], []
            for images in shared:
                seen.append(look(teacher, images, device))
                distances.append(match.distance().item())
        others = distances[:place] + distances[place + 1 :]
        strange.append(statistics.median(others) if match.layers and others else None)
        kernels.append(linear_kernel(torch.cat([features for features, _ in seen])))
        answers.append(torch.cat([logits for _, logits in seen]))
        rows = balanced_rows(pool.labels, OWN_IMAGES, rng)
        features, logits = look(teacher, pool.images[rows], device)
        measured["compactness"].append(compactness(features, pool.labels[rows]))
        measured["recovery"].append(recovery(logits, pool.labels[rows]))
    fold = torch.randint(FOLDS, (len(owner),), generator=rng)
    agreements = [agreement(kernels, place, answers[place], owner, fold) for place in range(len(teachers))]
    return judge([teacher.name for teacher in teachers], {"agreement": agreements, **measured}, strange)


def balanced_rows(labels: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """At most ``count`` random places of ``labels``, as evenly over the classes as can be."""
    shuffled = torch.randperm(len(labels), generator=rng)
    turn = torch.empty(len(labels))
    for label in labels.unique():
        members = labels[shuffled] == label
        turn[members] = torch.arange(int(members.sum()), dtype=turn.dtype)
    turn += torch.rand(len(labels), generator=rng)  # within a round the classes come in random order
    return shuffled[turn.argsort()[:count]]


def look(teacher: Teacher, images: Tensor, device: torch.device | str, batch_size: int = 200) -> tuple[Tensor, Tensor]:
    """Features [N, D] and logits [N, K], float32 on the CPU, of uint8 images [N, C, H, W] of any size, as the teacher sees them."""
    features, logits = [], []
    for part in images.split(batch_size):
        features.append(teacher.network.backbone(teacher.normalise(part.to(device))).float())
        logits.append(teacher.network.head(features[-1]).float())
    return torch.cat(features).cpu(), torch.cat(logits).cpu()


def linear_kernel(features: Tensor) -> Tensor:
    """Inner products [N, N] of centred features [N, D], scaled to a mean diagonal of 1; zero for features that do not vary."""
    centred = features - features.mean(0)
    kernel = centred @ centred.T
    return kernel * (len(kernel) / kernel.trace().clamp_min(1e-12))


def agreement(kernels: Sequence[Tensor], place: int, logits: Tensor, owner: Tensor, fold: Tensor) -> float:
    """Held-out share of the variance of one teacher's logits [N, K] that kernel ridge regression on the others' features explains.

    The kernel is the mean of the other teachers' ``linear_kernel`` [N, N]. Images of the teacher's own pool (``owner`` [N] says whose
    each is) are left out: it was made to be sure of them. ``fold`` [N] parts the images; each fold is predicted from the others.
    """
    use = owner != place
    if not use.any():
        return 0.0
    others = torch.stack([kernel for index, kernel in enumerate(kernels) if index != place]).mean(0)[use][:, use].double()
    target, fold = logits[use].double(), fold[use]
    target = target - target.mean(1, keepdim=True)  # only differences between logits mean anything
    wrong = total = 0.0
    for held in fold.unique():
        known, asked = fold != held, fold == held
        mean = target[known].mean(0)
        ridge = RIDGE * torch.eye(int(known.sum()), dtype=torch.float64)
        coefficients = torch.linalg.solve(others[known][:, known] + ridge, target[known] - mean)
        wrong += (target[asked] - mean - others[asked][:, known] @ coefficients).square().sum().item()
        total += (target[asked] - mean).square().sum().item()
    # Below zero, a fit that was worse than none, says no more than zero, and has no bound that a comparison could bear.
    return max(1 - wrong / max(total, 1e-12), 0.0)


def compactness(features: Tensor, labels: Tensor) -> float:
    """Share of the variance of features [N, D] that lies between the classes, without the part that chance puts there."""
    groups = [features[labels == label] for label in labels.unique()]
    within = sum(group.var(0).sum().item() * len(group) for group in groups if len(group) > 1) / len(features)
    between = (torch.stack([group.mean(0) for group in groups]).var(0).sum() if len(groups) > 1 else torch.zeros(())).item()
    between = max(between - within * len(groups) / len(features), 0.0)
    return between / max(between + within, 1e-12)


def recovery(logits: Tensor, labels: Tensor) -> float:
    """Mean probability of the labels [N] by logits [N, K], scaled so that guessing is 0 and certainty 1."""
    chance = 1 / logits.shape[1]
    return (logits.softmax(1).gather(1, labels[:, None]).mean().item() - chance) / (1 - chance)


def judge(names: Sequence[str], signs: dict[str, list[float]], strangeness: Sequence[float | None]) -> list[TeacherReliability]:
    """Trust from the three signs and the strangeness, each a list over the zoo in the order of ``names``.

    Medians and deviations are those of the teachers that are ordinary by them: starting from all, until no more are left out, and never
    of fewer than half.
    """
    excuses = excuse(strangeness)
    ordinary = [place for place, value in enumerate(signs["recovery"]) if value >= RECOGNISED]
    comparable = 2 * len(ordinary) >= len(names)
    while True:
        usual = {sign: middle_and_deviation([values[place] for place in ordinary]) for sign, values in signs.items()}
        distances = {sign: [(value - usual[sign][0]) / usual[sign][1] for value in values] for sign, values in signs.items()}
        scores = []
        for agreeing, more, three in zip(distances["agreement"], excuses, zip(*distances.values(), strict=True), strict=True):
            alone = of_small_sample(agreeing + more / usual["agreement"][1], len(ordinary))
            scores.append(max(agreeing, min(alone, sorted(three)[1])))
        remaining = [place for place in ordinary if scores[place] > ORDINARY]
        if remaining == ordinary or 2 * len(remaining) < len(names):
            break
        ordinary = remaining
    if len(ordinary) < FEWEST or not comparable:
        scores = [0.0] * len(names)
    verdicts = []
    for place, name in enumerate(names):
        own = {sign: values[place] for sign, values in signs.items()}
        weight = min(max((scores[place] - DROPPED) / (KEPT - DROPPED), 0.0), 1.0)
        reason = ""
        if comparable and own["recovery"] < RECOGNISED:
            weight, reason = 0.0, f"it does not recognise its own pool (recovery {own['recovery']:.2f}); is it trained?"
        elif weight < 1:
            low = [sign for sign in signs if distances[sign][place] <= KEPT]
            reason = " and ".join(f"{sign} {own[sign]:.2f} (usual in this zoo: {usual[sign][0]:.2f})" for sign in low)
        verdicts.append(TeacherReliability(name, weight, **own, strangeness=strangeness[place], score=scores[place], reason=reason))
    return verdicts


def unrecognised(verdicts: Sequence[TeacherReliability]) -> bool:
    """Whether most teachers do not recognise their own pools: then the inversion is at fault, or the whole zoo."""
    return 2 * sum(verdict.recovery >= RECOGNISED for verdict in verdicts) < len(verdicts)


def excuse(strangeness: Sequence[float | None]) -> list[float]:
    """How much agreement each teacher may lack because the others' images are strange to it; unlimited where that is not known."""
    known = [math.log10(max(value, 1e-12)) for value in strangeness if value is not None]
    usual = statistics.median(known) if known else 0.0
    return [math.inf if value is None else EXCUSE * max(math.log10(max(value, 1e-12)) - usual, 0.0) for value in strangeness]


def of_small_sample(distance: float, count: int) -> float:
    """A distance in deviations that ``count`` values gave (``middle_and_deviation``) as one in deviations of a normal distribution.

    The two are equally improbable: the first by Student's t distribution with as many degrees of freedom as the upper half has values.
    """
    return float(ndtri(stdtr(max(count // 2, 1), distance)))


def middle_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Median and robust deviation, at least ``FLOOR``; (0, 1) for no values.

    The deviation is 1.4826 median absolute deviations (the standard deviation, for a normal distribution) of the upper half alone: bad
    teachers are all below, and would widen the lower half until it covers them.
    """
    if not values:
        return 0.0, 1.0
    middle = statistics.median(values)
    return middle, max(1.4826 * statistics.median(value - middle for value in values if value >= middle), FLOOR)
