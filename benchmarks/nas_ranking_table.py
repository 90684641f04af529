"""How well rankings of architectures agree with the truth: the table and the picture of ``nas_ranking.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import kendalltau, spearmanr

from datafree.evaluation.intervals import mean_interval
from datafree.nas.search_result import mean_rank, relative_rank

TOP = 0.2  # share of the best architectures among which ranks are compared, too
PRIOR = "az_synflow"  # the score of untrained networks beside which every supernet is judged, too
COLUMNS = 4  # of the picture


def agreement(scores: Sequence[float], truth: Sequence[float]) -> dict[str, float]:
    """Kendall's tau-b, overall and among the truly best ``TOP``, Spearman's rho, and the truth of the best scored; 0 for equal scores."""
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
    """Markdown: means over seeds with half-widths of 95 % intervals; rows as far as there are results."""
    size, best = len(results["architectures"]), max(one["accuracy"] for one in results["architectures"])
    lines = [
        f"{size} architectures, the best of which has {best:.2f} %; mean over seeds ± half-width of the 95 % interval.", "",
        f"| ranked by | seeds | tau | tau, top {TOP:.0%} | rho | accuracy of the pick, % | CPU s |", "|---|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    rows = [(name, [one for _, one in _by_seed(results, "arms", name)]) for name in arms]
    rows += [(f"{name} with {PRIOR}", _with_prior(results, name)) for name in arms]
    rows += [(name, [one for _, one in _by_seed(results, "zero_cost", name)]) for name in scores]
    for name, found in rows:
        if found:
            measured = [_spread([one[key] for one in found], 3) for key in ("tau", "tau_top", "rho")]
            pick, seconds = _spread([one["pick"] for one in found], 2), sum(one["cpu_seconds"] for one in found) / len(found)
            lines.append(f"| {name} | {len(found)} | {' | '.join(measured)} | {pick} | {seconds:.0f} |")
    lines += ["", "| search | seed | cell | true accuracy, % | scored | CPU s |", "|---|---:|---|---:|---:|---:|"]
    for name in searches:
        for seed, one in _by_seed(results, "searches", name):
            true = "not in the table" if one["accuracy"] is None else f"{one['accuracy']:.2f}" + ("" if one["known"] else " (next)")
            cell = one["genotype"].replace("|", "\\|")
            lines.append(f"| {name} | {seed} | {cell} | {true} | {one['scored']} | {one['cpu_seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def _by_seed(results: dict[str, Any], part: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    """The entries of one arm, score or search with their seeds."""
    keys = [key for key in results[part] if key.rpartition("/")[0] == name]
    return [(key.rpartition("/")[2], results[part][key]) for key in keys]


def _with_prior(results: dict[str, Any], arm: str) -> list[dict[str, float]]:
    """Ranked by the arm's supernet and by the prior, as a search with a ``prior`` does, for each seed that has both."""
    truth, found = [one["accuracy"] for one in results["architectures"]], []
    for seed, one in _by_seed(results, "arms", arm):
        if ranks := _beside(results, one, seed):
            seconds = one["cpu_seconds"] + results["zero_cost"][f"{PRIOR}/{seed}"]["cpu_seconds"]
            found.append({**agreement(list(ranks.values()), truth), "cpu_seconds": seconds})
    return found


def _beside(results: dict[str, Any], arm: dict[str, Any], seed: str) -> dict[int, float]:
    """The mean rank of each architecture by one seed's supernet of an arm and by that seed's prior; empty if there is none."""
    prior = results["zero_cost"].get(f"{PRIOR}/{seed}")
    return mean_rank(*(dict(enumerate(scores)) for scores in (arm["scores"]["kl"], prior["scores"]))) if prior else {}


def _spread(values: Sequence[float], digits: int) -> str:
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    found = mean_interval(values)
    return f"{found['mean']:.{digits}f} ± {found['interval']:.{digits}f}"


def plot(results: dict[str, Any], arms: Sequence[str]) -> Figure:
    """True accuracy against the rank, 0 to 1, in the supernet of each arm that has results, alone and beside the prior; the first seed."""
    truth = [one["accuracy"] for one in results["architectures"]]
    panels = [(name, found[0]) for name in arms if (found := _by_seed(results, "arms", name))]
    rows = max(1, -(-len(panels) // COLUMNS))
    figure = Figure(figsize=(3.2 * COLUMNS, 2.9 * rows), layout="constrained")
    every = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, (name, (seed, one)) in zip(every, panels, strict=False):
        ranks = relative_rank(dict(enumerate(one["scores"]["kl"])))
        axes.scatter(ranks.values(), truth, s=9, c="#1f6fb2", alpha=0.6, linewidths=0, label="supernet")
        if beside := _beside(results, one, seed):
            axes.scatter(beside.values(), truth, s=9, c="#b3402c", alpha=0.6, linewidths=0, label=f"with {PRIOR}")
        axes.set_title(name, fontsize=10)
    for axes in every[len(panels) :]:
        axes.set_axis_off()
    if panels:
        every[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("rank, 1 = the best scored")
    figure.supylabel("true accuracy, %")
    return figure
