"""A few-shot classifier of a user's classes: nearest class mean, calibrated probabilities, and the rejection of unlike images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree.evaluation.nearest_centroid import centroids, class_means

# Of the cosines. A few images say little about it, so they are combined with a prior around the temperature that fits 5-way episodes of two
# shots of CIFAR-FS's validation classes.
PRIOR_TEMPERATURE, PRIOR = 0.28, 4.0
TEMPERATURES = torch.logspace(-2, 0.5, 126)
REJECT = 0.05  # share of images of the known classes that may be rejected
NEAREST = 0.1  # share of the negatives, the most similar ones, with which an image is compared


@dataclass(frozen=True, eq=False)
class FewShotClassifier:
    """Learned from ``support`` [N, D] with ``labels`` int64 [N] by ``fit``; D is the size of a representation.

    Attributes:
        centre, means: [D] and [way, D], see ``centroids``.
        temperature: divides the cosines of the logits.
        negatives: [M, D], representations of images of none of the classes; M may be 0.
        reference, directions: [D] and [way, D], the mean of the negatives and the class means relative to it, of unit length.
        threshold: an image whose ``similarity`` is lower is rejected; None if none is.
        basis: what the threshold was set by: ``support``, ``negatives`` or ``none``.
    """

    support: Tensor
    labels: Tensor
    centre: Tensor
    means: Tensor
    temperature: float
    negatives: Tensor
    reference: Tensor
    directions: Tensor
    threshold: float | None
    basis: str

    def logits(self, representations: Tensor) -> Tensor:
        """[B, D] → [B, way]: cosines with the class means, divided by the temperature. Their softmax is the calibrated probability."""
        return F.normalize(representations - self.centre, dim=-1) @ self.means.T / self.temperature

    def similarity(self, representations: Tensor) -> Tensor:
        """[B, D] → [B]: how much more an image resembles one of the classes than the negatives; rejected below ``threshold``.

        The largest cosine with a class mean, minus the mean of the largest ``NEAREST`` of the cosines with negatives.
        """
        unit = F.normalize(representations - self.reference, dim=-1)
        return (unit @ self.directions.T).amax(-1) - _nearest_negatives(unit, self._unit_negatives())

    def rejected(self, representations: Tensor) -> Tensor:
        """[B, D] → bool [B]: images unlike all classes."""
        if self.threshold is None:
            return torch.zeros(len(representations), dtype=torch.bool, device=representations.device)
        return self.similarity(representations) < self.threshold

    def _unit_negatives(self) -> Tensor:
        return F.normalize(self.negatives - self.reference, dim=-1)


def fit(support: Tensor, labels: Tensor, way: int, negatives: Tensor, reject: float = REJECT) -> FewShotClassifier:
    """The classifier of representations [N, D] with ``labels`` int64 [N] of ``way`` ≥ 2 classes, N ≥ 1 of each, in any numbers.

    The temperature minimises the negative log-likelihood of every support image by the class means without it, where its class has
    another one, together with a prior. The threshold rejects at most the share ``reject`` in [0, 1) of images that are like those of the
    support, judged by the similarities of the support, each image left out of its class mean (see ``conformal_threshold``). If they are too
    few, by the similarities of the negatives, which are lower.
    """
    centre, means = centroids(support, labels, way)
    temperature = _temperature(_leave_one_out(F.normalize(support - centre, dim=-1), labels, way), labels, way)
    reference = negatives.mean(0) if len(negatives) else torch.zeros_like(centre)
    unit, unit_negatives = F.normalize(support - reference, dim=-1), F.normalize(negatives - reference, dim=-1)
    directions = F.normalize(class_means(unit, labels, way), dim=-1)
    several = torch.bincount(labels, minlength=way)[labels] > 1
    scores = (_leave_one_out(unit, labels, way).amax(-1) - _nearest_negatives(unit, unit_negatives))[several]
    threshold, basis = conformal_threshold(scores, reject), "support"
    if threshold is None:
        own = torch.eye(len(negatives), dtype=torch.bool, device=negatives.device)
        scores = (unit_negatives @ directions.T).amax(-1) - _nearest_negatives(unit_negatives, unit_negatives, own)
        threshold, basis = conformal_threshold(scores, reject), "negatives"
    basis = "none" if threshold is None else basis
    return FewShotClassifier(support, labels, centre, means, temperature, negatives, reference, directions, threshold, basis)


def conformal_threshold(scores: Tensor, reject: float) -> float | None:
    """The largest of the scores [N] below which another score of their distribution lies with a probability of at most ``reject``.

    The k-th smallest, k = ⌊reject · (N + 1)⌋, which holds for any distribution; None for k = 0. Split conformal prediction: Vovk,
    Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005.
    """
    k = math.floor(reject * (len(scores) + 1) + 1e-9)
    return scores.kthvalue(k).values.item() if k else None


def _leave_one_out(unit: Tensor, labels: Tensor, way: int) -> Tensor:
    """Cosines [N, way] of vectors of unit length [N, D] with the class means; with that of its own class, without the vector itself.

    The only vector of a class keeps its cosine of 1.
    """
    sums = unit.new_zeros(way, unit.shape[1]).index_add_(0, labels, unit)
    cosines = unit @ F.normalize(sums, dim=-1).T
    without = sums[labels] - unit
    alone = torch.bincount(labels, minlength=way)[labels] == 1
    own = torch.where(alone, torch.ones_like(cosines[:, 0]), (unit * F.normalize(without, dim=-1)).sum(-1))
    return cosines.scatter(1, labels[:, None], own[:, None])


def _temperature(cosines: Tensor, labels: Tensor, way: int) -> float:
    """The temperature of ``fit`` from the leave-one-out cosines [N, way]; every class has the same weight."""
    counts = torch.bincount(labels, minlength=way)[labels]
    several = counts > 1
    candidates = TEMPERATURES.to(cosines)
    prior = PRIOR * (candidates / PRIOR_TEMPERATURE).log().square()
    weights = (len(labels) / way / counts)[several]
    losses = [(weights * F.cross_entropy(cosines[several] / t, labels[several], reduction="none")).sum() for t in candidates]
    return candidates[(torch.stack(losses) + prior).argmin()].item()


def _nearest_negatives(unit: Tensor, negatives: Tensor, excluded: Tensor | None = None) -> Tensor:
    """[B]: the mean of the largest ``NEAREST`` of the cosines of vectors [B, D] with the negatives [M, D]; 0 without any.

    ``excluded`` bool [B, M]: pairs that do not count.
    """
    if not len(negatives):
        return unit.new_zeros(len(unit))
    cosines = unit @ negatives.T
    if excluded is not None:
        cosines = cosines.masked_fill(excluded, -1.0)
    return cosines.topk(max(1, math.ceil(NEAREST * len(negatives))), dim=-1).values.mean(-1)
