"""teacher_curves.py on a run with three untrained teachers."""

import json
from pathlib import Path

import pytest
import teacher_curves
import yaml
from PIL import Image

from datafree import artifacts
from datafree.errors import UserError

METHODS = {
    "inversion": {"images_per_class": 4, "meta_generator": {"outer_steps": 2, "inner_steps": 1, "latent": 8, "width": 8}},
    "distillation": {"steps": 2, "backbone": {"width": 8}},
    "evaluation": {"way": 3, "query": 3, "episodes": 5, "shots": [1, 2]},
    "rows": {"five": {"method": "generator", "steps": 1}},
}
CURVES = ("--teachers", "2", "3", "--steps", "1", "--label-noise", "0.5", "--poor", "2", "--full-steps", "2")


def curves(run: Path, folder: Path, *options: str) -> list[dict]:
    (folder / "methods.yaml").write_text(yaml.safe_dump(METHODS))
    given = ["--run", run, "--output", folder / "out", "--methods", folder / "methods.yaml", "--row", "five", *options]
    teacher_curves.main([str(argument) for argument in given])
    return json.loads((folder / "out" / "points.json").read_text())


def test_every_point_is_measured_once_and_extended_by_more_seeds(run, tmp_path, capsys):
    found = curves(run, tmp_path, *CURVES, "--seeds", "0")
    assert [(p["curve"], p["value"], p["teachers"]) for p in found] == [
        ("teachers", 2, 2), ("teachers", 3, 3), ("steps", 1, 2), ("label_noise", 0.5, 2),
    ]  # fmt: skip
    assert all(set(p["accuracy"]) == {"1", "2"} and len(p["accuracy"]["1"]) == 1 for p in found)
    assert [p["teacher_accuracy"] is None for p in found] == [True, True, False, False]
    assert all(0 <= p["teacher_accuracy"] <= 1 for p in found[2:])
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert len(files) == (2 + 3 + 2 + 2) + 4 + (2 + 2)  # pools, a generator per point, teachers
    more = curves(run, tmp_path, *CURVES, "--seeds", "0", "1")
    assert all(path.stat().st_mtime_ns == when for path, when in files.items())
    assert [p["accuracy"]["1"][0] for p in more] == [p["accuracy"]["1"][0] for p in found]
    assert all(len(p["accuracy"]["1"]) == 2 for p in more)
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert len(lines) == 2 + len(found)
    assert "±" in lines[2]
    assert lines[2].startswith("| teachers | 2 | 2 | – |")
    assert capsys.readouterr().out.endswith((tmp_path / "out" / "table.md").read_text())
    with Image.open(tmp_path / "out" / "curves.png") as image:
        assert image.size[0] > image.size[1]


def test_poor_teachers_are_trained_on_their_own_classes(run, tmp_path):
    curves(run, tmp_path, "--teachers", "--steps", "1", "30", "--label-noise", "--poor", "2", "--seeds", "0")
    few, many = (artifacts.read_tensors(tmp_path / f"out/steps-{steps}/zoo/first.safetensors") for steps in (1, 30))
    given = artifacts.read_tensors(run / "artifacts/zoo/first/weights.safetensors")
    assert {name: value.shape for name, value in few.items()} == {name: value.shape for name, value in given.items()}
    assert any(not value.equal(many[name]) for name, value in few.items())


def test_more_teachers_than_the_run_has_are_refused(run, tmp_path):
    with pytest.raises(UserError, match="teachers 4: 4 teachers requested, but .* has 3; request fewer"):
        curves(run, tmp_path, "--teachers", "4")
