"""Rank correlations with true accuracies: the table and the plot of ``nas_ranking.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import kendalltau, spearmanr

from datafree.evaluation.intervals import mean_interval
from datafree.nas.search_result import mean_rank, relative_rank

TOP = 0.2  # share of the architectures, best by true accuracy, with a separate rank correlation
PRIOR = "az_synflow"  # the zero-cost proxy that every supernet is combined with
COLUMNS = 4  # of the plot


def rank_correlation(scores: Sequence[float], truth: Sequence[float]) -> dict[str, float]:
    """Kendall's tau-b, overall and among the truly best ``TOP``, Spearman's rho (0 for equal scores), and the true accuracy of the best
    scored architecture (``pick``) with its distance to the best (``regret``)."""
    order = np.argsort(truth)[::-1][: max(2, round(TOP * len(truth)))]
    values, best = np.asarray(scores), np.asarray(truth)

    def tau(a: np.ndarray, b: np.ndarray) -> float:
        return 0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else float(kendalltau(a, b).statistic)

    rho = 0.0 if np.ptp(values) == 0 or np.ptp(best) == 0 else float(spearmanr(values, best).statistic)
    pick = float(best[int(values.argmax())])
    return {
        "tau": tau(values, best),
        "tau_top": tau(values[order], best[order]),
        "rho": rho,
        "pick": pick,
        "regret": float(best.max()) - pick,
    }


def table(results: dict[str, Any], arms: Sequence[str], scores: Sequence[str], searches: Sequence[str]) -> str:
    """Markdown: means over seeds with half-widths of 95 % intervals; one row per arm, proxy and search that has results."""
    size, best = len(results["architectures"]), max(architecture["accuracy"] for architecture in results["architectures"])
    lines = [
        f"{size} architectures, the best of which has {best:.2f} %; mean over seeds ± half-width of the 95 % interval.", "",
        f"| ranked by | seeds | tau | tau, top {TOP:.0%} | rho | accuracy of the pick, % | CPU s |", "|---|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    rows = [(name, [entry for _, entry in _by_seed(results, "arms", name)]) for name in arms]
    rows += [(f"{name} with {PRIOR}", _with_prior(results, name)) for name in arms]
    rows += [(name, [entry for _, entry in _by_seed(results, "zero_cost", name)]) for name in scores]
    for name, entries in rows:
        if entries:
            measured = [_spread([entry[key] for entry in entries], 3) for key in ("tau", "tau_top", "rho")]
            pick, seconds = _spread([entry["pick"] for entry in entries], 2), sum(entry["cpu_seconds"] for entry in entries) / len(entries)
            lines.append(f"| {name} | {len(entries)} | {' | '.join(measured)} | {pick} | {seconds:.0f} |")
    lines += ["", "| search | seed | cell | true accuracy, % | scored | CPU s |", "|---|---:|---|---:|---:|---:|"]
    for name in searches:
        for seed, entry in _by_seed(results, "searches", name):
            true = "not in the table" if entry["accuracy"] is None else f"{entry['accuracy']:.2f}" + ("" if entry["known"] else " (next)")
            cell = entry["genotype"].replace("|", "\\|")
            lines.append(f"| {name} | {seed} | {cell} | {true} | {entry['scored']} | {entry['cpu_seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def _by_seed(results: dict[str, Any], part: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    """(seed, entry) of one arm, proxy or search."""
    keys = [key for key in results[part] if key.rpartition("/")[0] == name]
    return [(key.rpartition("/")[2], results[part][key]) for key in keys]


def _with_prior(results: dict[str, Any], arm: str) -> list[dict[str, float]]:
    """The correlations of the mean rank by the arm's supernet and the prior, as in a search with a ``prior``; for each seed with both."""
    truth, entries = [architecture["accuracy"] for architecture in results["architectures"]], []
    for seed, entry in _by_seed(results, "arms", arm):
        if ranks := _mean_ranks(results, entry, seed):
            seconds = entry["cpu_seconds"] + results["zero_cost"][f"{PRIOR}/{seed}"]["cpu_seconds"]
            entries.append({**rank_correlation(list(ranks.values()), truth), "cpu_seconds": seconds})
    return entries


def _mean_ranks(results: dict[str, Any], arm: dict[str, Any], seed: str) -> dict[int, float]:
    """The mean rank of each architecture by one seed's supernet of an arm and by that seed's prior; empty without a prior."""
    prior = results["zero_cost"].get(f"{PRIOR}/{seed}")
    return mean_rank(*(dict(enumerate(scores)) for scores in (arm["scores"]["kl"], prior["scores"]))) if prior else {}


def _spread(values: Sequence[float], digits: int) -> str:
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    interval = mean_interval(values)
    return f"{interval['mean']:.{digits}f} ± {interval['interval']:.{digits}f}"


def plot(results: dict[str, Any], arms: Sequence[str]) -> Figure:
    """True accuracy against the rank, 0 to 1, by the supernet alone and with the prior: one panel per arm with results, the first seed."""
    truth = [architecture["accuracy"] for architecture in results["architectures"]]
    panels = [(name, entries[0]) for name in arms if (entries := _by_seed(results, "arms", name))]
    rows = max(1, -(-len(panels) // COLUMNS))
    figure = Figure(figsize=(3.2 * COLUMNS, 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, (name, (seed, entry)) in zip(grid, panels, strict=False):
        ranks = relative_rank(dict(enumerate(entry["scores"]["kl"])))
        axes.scatter(ranks.values(), truth, s=9, c="#1f6fb2", alpha=0.6, linewidths=0, label="supernet")
        if with_prior := _mean_ranks(results, entry, seed):
            axes.scatter(with_prior.values(), truth, s=9, c="#b3402c", alpha=0.6, linewidths=0, label=f"with {PRIOR}")
        axes.set_title(name, fontsize=10)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    if panels:
        grid[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("rank, 1 = the best scored")
    figure.supylabel("true accuracy, %")
    return figure
