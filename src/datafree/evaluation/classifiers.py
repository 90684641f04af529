"""Few-shot classifiers of features by name, and a majority vote of several networks.

A new classifier is one file here, one line in ``CLASSIFIERS``, and its name in ``datafree.config.schema.CLASSIFIERS``. Its module is
imported only when the classifier is looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree.registry import Registry

# Many episodes at once: support [..., way, shot, D], query [..., Q, D] → predicted class int64 [..., Q].
Classifier = Callable[[Tensor, Tensor], Tensor]

CLASSIFIERS: Registry[Classifier] = Registry(
    {
        "nearest_centroid": "datafree.evaluation.nearest_centroid:nearest_centroid",
        "logistic": "datafree.evaluation.logistic:logistic",
    }
)


def vote(sizes: Sequence[int], classify: Classifier) -> Classifier:
    """The majority vote of several networks, each by ``classify`` on its own features; the input is their features, concatenated.

    ``sizes`` are the networks' feature sizes. A tie goes to the first class; an episode's classes are in random order.
    """

    def voted(support: Tensor, query: Tensor) -> Tensor:
        votes = [classify(*parts) for parts in zip(support.split(list(sizes), -1), query.split(list(sizes), -1), strict=True)]
        return F.one_hot(torch.stack(votes), support.shape[-3]).sum(0).argmax(-1)

    return voted


def weighted(columns: Tensor, classify: Classifier) -> Classifier:
    """``classify`` on representations whose columns are multiplied by ``columns`` [D]."""

    def classified(support: Tensor, query: Tensor) -> Tensor:
        factors = columns.to(support)
        return classify(support * factors, query * factors)

    return classified
