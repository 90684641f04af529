"""The benchmark of inversion methods, on a run with three untrained teachers."""

import json
from pathlib import Path

import inversion_methods
import pytest
import yaml

from datafree.errors import UserError

FOLDER = Path(__file__).parents[2] / "benchmarks"

METHODS = {
    "unit": "five", "reference": "own",
    "inversion": {"images_per_class": 4, "meta_generator": {"outer_steps": 2, "inner_steps": 1, "latent": 8, "width": 8}},
    "distillation": {"steps": 2, "backbone": {"width": 8}},
    "evaluation": {"way": 3, "query": 3, "episodes": 5, "shots": [1, 2]},
    "rows": {
        "five": {"method": "generator", "steps": 1},
        "five_even": {"method": "generator", "steps": 2, "inversion": {"loss": {"diversity": 0.0}}},
        "own": {"method": "generator", "steps": 3, "initialisation": "random", "latent": 8, "width": 8},
        "pixels": {"method": "pixels", "steps": 2},
    },
}  # fmt: skip


def study(run: Path, folder: Path, *options: str, methods=METHODS) -> dict:
    (folder / "methods.yaml").write_text(yaml.safe_dump(methods, sort_keys=False))
    arguments = ["--run", run, "--output", folder / "out", "--methods", folder / "methods.yaml", *options]
    inversion_methods.main([str(argument) for argument in arguments])
    return json.loads((folder / "out" / "results.json").read_text())


def test_every_row_is_measured_once_and_a_second_run_adds_missing_rows(run, tmp_path):
    results = study(run, tmp_path, "--teachers", "2", "--seeds", "0", "1", "--only", "five", "pixels")
    assert results["settings"]["teachers"] == ["first", "second"]
    assert results["settings"]["zoo"] == 3
    names = {f"{row}/{seed}/{teacher}" for row in ("five", "pixels") for seed in (0, 1) for teacher in ("first", "second")}
    assert results["cells"].keys() == names | {"real/0/first", "real/0/second"}
    assert results["downstream"].keys() == {f"{row}/{seed}" for row in ("five", "pixels", "noise", "real") for seed in (0, 1)}
    assert len(results["generators"]) == 2  # one per seed
    cell = results["cells"]["pixels/1/second"]
    assert cell["images"] == 16
    assert cell["cpu_seconds"] > 0
    assert cell["frechet"] > 0
    assert 0 <= cell["jury_unanimous"] <= cell["judge_accuracy"] <= 1
    assert results["cells"]["real/0/first"]["within_class_ratio"] == pytest.approx(1)
    assert set(results["downstream"]["real/0"]["accuracy"]) == {"1", "2"}

    more = study(run, tmp_path, "--teachers", "2", "--seeds", "0", "1")
    for part in ("cells", "downstream", "generators"):
        assert more[part].items() >= results[part].items()  # including times: nothing was measured again
    assert len(more["cells"]) == 2 + 4 * 2 * 2
    assert len(more["generators"]) == 4  # five_even has another loss, and so another generator
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")] == [
        "method", *METHODS["rows"], "images", "real", *METHODS["rows"], "noise",
    ]  # fmt: skip


def test_a_row_with_other_settings_is_refused(run, tmp_path):
    options = ("--teachers", "1", "--seeds", "0", "--only", "pixels")
    study(run, tmp_path, *options)
    changed = {**METHODS, "rows": {"pixels": {"method": "pixels", "steps": 3}}}
    with pytest.raises(UserError, match="row pixels was made with other settings; rename it, or give another --output"):
        study(run, tmp_path, *options, methods=changed)
    with pytest.raises(UserError, match="give another --output"):
        study(run, tmp_path, *options, methods={**METHODS, "distillation": {"steps": 3}})


def test_the_default_rows_are_valid():
    spec = yaml.safe_load((FOLDER / "inversion_methods.yaml").read_text(encoding="utf-8"))
    rows = {name: inversion_methods.Row.read(name, row, spec) for name, row in spec["rows"].items()}
    assert spec["unit"] in rows
    assert spec["reference"] in rows
    assert rows["five_5"].generator_key == rows["five_20"].generator_key != rows["five_20_no_diversity"].generator_key
    assert rows["generator_50"].generator_key == ""
    assert rows["five_20_no_diversity"].shared.loss.diversity == 0
    assert len({row.shared.images_per_class for row in rows.values()}) == 1
