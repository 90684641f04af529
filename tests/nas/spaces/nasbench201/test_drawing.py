from __future__ import annotations

import numpy as np

from datafree.nas.spaces.nasbench201.drawing import STYLE, draw_cell
from datafree.nas.spaces.nasbench201.genotype import OPERATIONS

MIXED = ("nor_conv_3x3", "skip_connect", "nor_conv_1x1", "none", "avg_pool_3x3", "nor_conv_3x3")


def _pixels(picture, colour: str) -> int:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(np.asarray(picture).astype(int) - wanted).max(-1) <= 2).sum())


def test_the_same_cell_gives_the_same_picture():
    first, second = draw_cell(MIXED), draw_cell(MIXED)
    assert first.mode == "RGB"
    assert first.tobytes() == second.tobytes()


def test_every_operation_has_a_style():
    assert set(STYLE) == set(OPERATIONS)


def test_a_picture_shows_the_operations_of_the_cell_and_no_others():
    for name, (_, colour) in STYLE.items():
        if name != "none":
            # Six arrows have more pixels than their labels alone.
            assert _pixels(draw_cell((name,) * 6), colour) > 2000
            assert _pixels(draw_cell(tuple("none" if o == name else o for o in MIXED)), colour) == 0


def test_moving_an_operation_to_another_edge_changes_the_picture():
    pictures = {draw_cell(tuple("nor_conv_3x3" if edge == place else "none" for edge in range(6))).tobytes() for place in range(6)}
    assert len(pictures) == 6


def test_nothing_is_cut_off_at_the_border():
    picture = np.asarray(draw_cell(("nor_conv_3x3",) * 6))
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert (border == 255).all()
