import pytest
from inversion_table import break_even, meta_cost, of_seeds, per_hundred, table


def cell(seconds, **measures):
    return {"cpu_seconds": seconds, "wall_seconds": 2 * seconds, "images": 50, "teacher_accuracy": 1.0, "frechet": 3.0, **measures}


RESULTS = {
    "rows": {"five": {"generator": "abc"}, "own": {"generator": ""}},
    "generators": {"abc/0": {"cpu_seconds": 10.0}, "abc/1": {"cpu_seconds": 14.0}, "other/0": {"cpu_seconds": 99.0}},
    "cells": {"five/0/a": cell(1.0), "five/1/a": cell(1.0), "own/0/a": cell(4.0), "own/1/a": cell(6.0), "real/0/a": cell(0.0)},
    "downstream": {
        f"{name}/{seed}": {"accuracy": {"1": value + 0.01 * seed, "5": value + 0.1}}
        for name, value in (("noise", 0.3), ("five", 0.4), ("own", 0.45), ("real", 0.5))
        for seed in (0, 1)
    },
}


def lines(text, first):
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    start = next(place for place, row in enumerate(rows) if row[0] == first)
    named = {}
    for row in rows[start + 2 :]:
        if row[0] in ("method", "images"):
            break
        named[row[0]] = dict(zip(rows[start][1:], row[1:], strict=True))
    return named


def test_costs_are_per_hundred_images_and_relative_to_the_unit():
    costs = lines(table(RESULTS, ["five", "own", "not yet"], "five", "own"), "method")
    assert costs["five"]["CPU s per 100 images"] == "2.00 ± 0.00"
    assert costs["five"]["wall s per 100 images"] == "4.00"
    assert costs["own"]["× five"] == "5.0"
    assert costs["five"]["meta-training, CPU s"] == "12"
    assert costs["five"]["paid back after, against own"] == "3.0 teachers"  # 12 / (5 − 1)
    assert costs["own"]["meta-training, CPU s"] == costs["own"]["paid back after, against own"] == ""
    assert "real" not in costs


def test_the_quality_table_has_real_images_every_row_and_noise():
    quality = lines(table(RESULTS, ["five", "own", "not yet"], "five", "own"), "images")
    assert list(quality) == ["real", "five", "own", "noise"]
    assert quality["five"]["teacher %"] == "100.0 ± 0.0"
    assert "judge %" not in quality["five"]  # no judge was trained on the classes
    assert quality["real"]["Fréchet"] == "3.0"
    assert quality["noise"]["Fréchet"] == ""
    assert quality["own"]["recovered 1-shot %"] == "75 ± 0"
    assert quality["five"]["recovered 5-shot %"] == "50 ± 0"
    assert quality["noise"]["recovered 1-shot %"] == "0 ± 0"
    assert quality["five"]["1-shot %"].startswith("40.5 ± ")


def test_results_of_other_seeds_are_left_out():
    first = of_seeds(RESULTS, [0])
    assert set(first["cells"]) == {"five/0/a", "own/0/a", "real/0/a"}
    assert set(first["generators"]) == {"abc/0", "other/0"}
    assert first["rows"] == RESULTS["rows"]
    assert lines(table(first, ["five", "own"], "five", "own"), "method")["own"]["CPU s per 100 images"] == "8.00 ± 0.00"
    assert set(of_seeds(RESULTS, [1])["cells"]) == {"five/1/a", "own/1/a", "real/0/a"}


def test_without_the_unit_or_the_reference_their_columns_are_empty():
    costs = lines(table(RESULTS, ["five", "own", "not yet"], "missing", "missing"), "method")
    assert costs["own"]["× missing"] == costs["five"]["paid back after, against missing"] == ""


def test_the_break_even_is_training_over_the_saving_per_teacher():
    assert break_even(30.0, 1.0, 4.0) == pytest.approx(10)
    assert break_even(30.0, 4.0, 4.0) is None
    assert meta_cost(RESULTS, "own") is None
    assert per_hundred(cell(3.0), "wall_seconds") == 12
