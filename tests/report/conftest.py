"""Fixture: the few-shot results of a small study (content of results.json)."""

import pytest


def value(mean, seeds=(0,), interval=0.008):
    per_seed = [{"seed": seed, "mean": mean + 0.01 * index, "interval": 0.012, "n": 600} for index, seed in enumerate(seeds)]
    return {"mean": mean, "interval": interval, "n": 600 * len(seeds), "per_seed": per_seed}


def row(name, kind, one, five, *, networks=1, parameters=113088, seeds=(0,)):
    shots = {"1": value(one, seeds), "5": value(five, seeds, 0.0061)}
    return {
        "name": name,
        "kind": kind,
        "description": f"description of {name}",
        "networks": networks,
        "parameters": parameters,
        "seeds": list(seeds),
        "shots": shots,
    }


@pytest.fixture
def results():
    rows = [
        row("real-data oracle", "oracle", 0.879, 0.964),
        row("bell", "arm", 0.648, 0.863, seeds=(0, 1, 4)),
        row("pixels", "baseline", 0.331, 0.526, networks=0, parameters=0),
        row("distillation", "arm", 0.766, 0.911, seeds=(0, 1, 4)),
        row("best teacher", "baseline", 0.746, 0.895, parameters=30208),
        row("all teachers", "baseline", 0.827, 0.949, networks=16, parameters=16 * 30208),
    ]
    rows[4]["teachers"] = [
        {"name": name, "parameters": size, "shots": {"1": value(one), "5": value(five)}}
        for name, size, one, five in (("<small>", 30208, 0.746, 0.88), ("large", 90000, 0.7, 0.895))
    ]
    return {"computed_on": ["float32 on x86_64 AVX2"], "split": "test", "way": 5, "query": 15, "episodes": 600, "rows": rows}
