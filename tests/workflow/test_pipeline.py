"""The pipeline under the real Snakemake: which jobs are computed after which change."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

import pytest

from tests.workflow.conftest import Project
from tests.workflow.test_never_wrong import last_plan

JOBS = {
    "images",
    "teacher/glyphs-00",
    "teacher/glyphs-01",
    "meta_generator",
    "invert/five/glyphs-00",
    "invert/five/glyphs-01",
    "episodes/five",
    "reinforce/five",
    "search/spos",
    "retrain/spos",
    "learner/bell/0",
    "reference/oracle",
    "reference/judge",
    "inversion_quality",
    "few_shot",
    "networks",
    "report_page",
}


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    return finished.copy(tmp_path / "project")


def test_first_run_computes_everything_once_and_shows_the_table(finished: Project) -> None:
    assert finished.computed == JOBS
    results = json.loads((finished.folder / "artifacts/evaluation/few_shot/results.json").read_text())
    assert {row["name"] for row in results["rows"]} >= {"bell", "pixels", "random", "best teacher", "all teachers", "real-data oracle"}
    assert "bell" in finished.printed
    assert (finished.folder / "artifacts/report/report.html").stat().st_size > 10_000


@pytest.mark.slow  # the tests of other hardware below and of DVC change evaluation.episodes as well; test_plan.py has other keys
@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("evaluation.episodes", 21, {"few_shot", "networks", "report_page"}),
        ("tasks.query", 4, {"episodes/five", "learner/bell/0", "few_shot", "networks", "report_page"}),
        ("zoo.limit", 1, JOBS - {"images", "teacher/glyphs-00", "teacher/glyphs-01", "invert/five/glyphs-01"}),
    ],
)
def test_changed_parameter_reruns_exactly_what_reads_it(project: Project, key: str, value: object, expected: set[str]) -> None:
    project.change(key, value)
    assert project.snakemake() == expected
    assert project.snakemake() == set()


def test_a_second_run_does_nothing_and_the_number_of_cores_changes_no_result(project: Project) -> None:
    assert project.snakemake("--cores", "3") == set()
    assert "Nothing to be done" in project.last.stdout + project.last.stderr
    pools = project.folder / "artifacts/inversion/five"
    before = {path.relative_to(pools): path.read_bytes() for path in pools.rglob("*") if path.is_file()}
    project.edit("src/datafree/workflow/deals.py", "STEPS_PER_PROCESS = 50", "STEPS_PER_PROCESS = 1")
    for cores, shards in (("1", ["0"]), ("2", ["0", "1"])):
        shutil.rmtree(pools)
        assert project.snakemake("--cores", cores, "--", "inversion") == {"invert/five/glyphs-00", "invert/five/glyphs-01"}
        assert sorted(json.loads(last_plan(project).read_text())["shards"]["invert"]) == shards
        assert {path.relative_to(pools): path.read_bytes() for path in pools.rglob("*") if path.is_file()} == before
    assert project.snakemake() == set()  # the shards of later stages were dealt anew, and all their jobs are up to date


def test_a_failed_teacher_does_not_affect_others_of_its_shard(project: Project) -> None:
    pools = project.folder / "artifacts/inversion/five"
    shutil.rmtree(pools)
    (pools / "glyphs-00").mkdir(parents=True)
    (pools / "glyphs-00/images.safetensors").mkdir()  # cannot be written
    assert project.snakemake("--", "inversion", ok=False) == {"invert/five/glyphs-00", "invert/five/glyphs-01"}
    assert "glyphs-00/images.safetensors" in project.last.stderr
    assert (pools / "glyphs-01/provenance.json").is_file()
    (pools / "glyphs-00/images.safetensors").rmdir()
    assert project.snakemake("--", "inversion") == {"invert/five/glyphs-00"}


def test_fewer_teachers_and_all_of_them_again(project: Project) -> None:
    project.change("zoo.limit", 1)
    assert project.snakemake("--forceall", "--", "zoo") == set()  # the file of the shard is of one teacher now
    project.change("zoo.limit", 2)
    assert project.snakemake("--", "zoo") == set()
    index = json.loads((project.folder / "artifacts/zoo/index.json").read_text())
    assert [member["name"] for member in index["members"]] == ["glyphs-00", "glyphs-01"]


@pytest.mark.slow  # test_mistakes.py changes a teacher as well, and test_plan.py has what depends on it
def test_changed_teacher_does_not_rerun_the_other_teacher(project: Project) -> None:
    project.edit("zoos/glyphs.yaml", "{name: glyphs-01, train: {classes: 8, seed: 1}}", "{name: glyphs-01, train: {classes: 7, seed: 1}}")
    assert project.snakemake("--", "inversion") == {"teacher/glyphs-01", "meta_generator", "invert/five/glyphs-00", "invert/five/glyphs-01"}


def test_edited_code_reruns_the_jobs_that_use_it(project: Project) -> None:
    project.edit("src/datafree/tasks/episodes.py", "from __future__", "# a comment\nfrom __future__")
    project.edit("src/datafree/inversion/pixels.py", "\ndef ", "\nUNUSED = 0\n\n\ndef ")  # of a method that no job of this study names
    project.edit("src/datafree/report/tables.py", "\ndef ", "\nUNUSED = 0\n\n\ndef ")
    project.edit("src/datafree/meta/bell.py", "\ndef ", "\nUNUSED = 0\n\n\ndef ")  # computes the same bytes as before
    assert project.snakemake() == {"learner/bell/0", "report_page"}
    assert project.snakemake() == set()


def test_a_damaged_and_a_deleted_output_are_found_and_recomputed_with_the_same_bytes(project: Project) -> None:
    pool = project.folder / "artifacts/inversion/five/glyphs-00/images.safetensors"
    learner = project.folder / "artifacts/meta/bell/seed0/learner.safetensors"
    whole = [path.read_bytes() for path in (pool, learner)]
    learner.unlink()
    assert project.snakemake("--", "meta") == {"learner/bell/0"}
    pool.write_bytes(whole[0][:-1])
    assert project.snakemake("--forceall", "--", "inversion") == {"invert/five/glyphs-00"}
    assert [path.read_bytes() for path in (pool, learner)] == whole


def test_snakemake_report_contains_the_page(project: Project) -> None:
    project.run("snakemake", "--report", "overview.html")
    assert "report.html" in (project.folder / "overview.html").read_text()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the instruction set of an x86-64 CPU is changed")
def test_results_of_another_processor_kind_are_recomputed_unless_accepted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    dry_run = project.run("snakemake", "--dry-run")
    assert "learner" in dry_run.stdout and "images" in dry_run.stdout
    warnings = [
        line for line in dry_run.stderr.splitlines() if line.startswith("datafree: finished results were made with processor x86_64 ")
    ]
    assert len(warnings) == 1 and warnings[0].endswith("; --config accept_other_hardware=true keeps them")
    states = project.run("datafree", "status").stdout
    assert "made with processor x86_64" in states and "not x86_64 SSE4.1" in states
    assert states.count("accept_other_hardware") == 1
    # Accepted results are kept; a changed job is computed on this hardware from them, and its results name both.
    project.change("accept_other_hardware", True)
    project.change("evaluation.episodes", 21)
    assert project.snakemake() == {"few_shot", "networks", "report_page"}
    results = json.loads((project.folder / "artifacts/evaluation/few_shot/results.json").read_text())
    assert len(results["computed_on"]) == 2 and any("SSE4.1" in kind for kind in results["computed_on"])
