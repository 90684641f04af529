"""Means with 95 % confidence intervals, of episodes and over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scipy.special import stdtrit  # the quantile of Student's t: scipy.stats has it too, but takes a second to import


def mean_interval(values: Sequence[float]) -> dict[str, Any]:
    """{mean, interval, n}: ``interval`` is the half-width of the 95 % interval of the mean (Student's t); 0 for one value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return {"mean": mean, "interval": 0.0, "n": 1}
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return {"mean": mean, "interval": float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n), "n": n}


def over_seeds(per_seed: Sequence[Sequence[float]]) -> dict[str, Any]:
    """{mean, interval, n} of several seeds' episode accuracies.

    With one seed the interval is that of the episodes. With more it is that of the seeds' means (Student's t), or of all episodes if that
    is wider: both sources of noise are covered. ``n`` counts episodes.
    """
    pooled = mean_interval([value for values in per_seed for value in values])
    if len(per_seed) < 2:
        return pooled
    between = mean_interval([math.fsum(values) / len(values) for values in per_seed])
    return {**pooled, "interval": max(pooled["interval"], between["interval"])}
