"""A user's mistakes give one line and a nonzero exit status, no result is lost, and the next run continues."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.workflow.conftest import Project


# A wrong value by itself and an impossible combination; the tests of the configuration and of preflight have all other lines.
@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("inversion.methods.five.steps", 0, "inversion.methods.five.steps: got 0; allowed: at least 1"),
        ("tasks.way", 9, "tasks.way: got 9; allowed: at most 8, the classes of teacher glyphs-00"),
        pytest.param(
            "nas.algorithms.spos.max_macs",
            7,
            "nas.algorithms.spos.max_macs: got 7; the smallest architecture of nasbench201 needs",
            marks=pytest.mark.slow,
        ),
        pytest.param("device", "cuda:7", "device: got cuda:7, but this machine", marks=pytest.mark.slow),
        pytest.param("zoo.manifest", "zoos/none.yaml", "zoo.manifest: cannot read", marks=pytest.mark.slow),
    ],
)
def test_mistake_in_a_parameter_stops_before_any_job(finished: Project, tmp_path: Path, key: str, value: object, line: str) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(finished.folder, project.folder, ignore=shutil.ignore_patterns("artifacts", ".snakemake"))
    project.change(key, value)
    assert project.snakemake(ok=False) == set()
    assert project.last.returncode == 2
    lines = [text for text in project.last.stderr.splitlines() if text.startswith("datafree:")]
    assert len(lines) == 1
    assert line in lines[0]
    assert "Traceback" not in project.last.stderr
    assert not (project.folder / "artifacts").exists()


def test_damaged_checkpoint_is_one_line_and_the_next_run_continues(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    good = project.folder / "artifacts/zoo/glyphs-01/weights.safetensors"
    given = project.folder / "zoos/given.safetensors"
    given.write_bytes(good.read_bytes()[:-100])
    before = good.read_bytes()
    entry = _manifest_entry(hashlib.sha256(before).hexdigest())
    project.edit("zoos/glyphs.yaml", "{name: glyphs-01, train: {classes: 8, seed: 1}}", entry)

    assert project.snakemake("--", "zoo", ok=False) == {"teacher/glyphs-01"}
    lines = [text for text in (project.last.stdout + project.last.stderr).splitlines() if text.strip().startswith("datafree:")]
    assert len(lines) == 1
    assert "SHA-256" in lines[0]
    assert "given.safetensors" in lines[0]
    assert "Traceback" not in project.last.stdout + project.last.stderr
    assert good.read_bytes() == before

    given.write_bytes(before)
    assert project.snakemake("--", "zoo") == {"teacher/glyphs-01"}
    assert good.read_bytes() == before


def _manifest_entry(sha256: str) -> str:
    classes = ", ".join(f"class-{letter}" for letter in "abcdefgh")
    return f"{{name: glyphs-01, file: given.safetensors, sha256: {sha256}, classes: [{classes}]}}"
