from __future__ import annotations

import numpy as np

from datafree.nas.candidate_plot import draw_candidates


def _pixels(picture, colour: str) -> int:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(np.asarray(picture).astype(int) - wanted).max(-1) <= 2).sum())


def test_candidates_are_drawn_against_every_cost_that_was_measured():
    rows = [{"step": n, "macs": 1e6 * n, "parameters": 10 * n, "agreement": 0.1 * n} for n in range(1, 6)]
    plain = draw_candidates(rows, 4)
    assert draw_candidates(rows, 4).tobytes() == plain.tobytes() != draw_candidates(rows, 1).tobytes()
    timed = draw_candidates([{**row, "latency": 2.0} for row in rows], 4)
    assert timed.size == (2 * plain.size[0], plain.size[1])
    scored = draw_candidates([{"macs": row["macs"], "score": row["agreement"]} for row in rows], 4)
    assert _pixels(scored, "#b3402c") > 200  # the front
