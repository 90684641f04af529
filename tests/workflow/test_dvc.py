"""DVC and Snakemake together: neither repeats the other's work, or records an old output under a new parameter."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from datafree.workflow.provenance import read_record
from tests.workflow.conftest import Project


def assert_records_match_parameters(project: Project) -> None:
    """The records of all artifacts have the current parameters."""
    parameters = yaml.safe_load((project.folder / "params.yaml").read_text())
    records = [read_record(path) for path in sorted((project.folder / "artifacts").rglob("provenance.json"))]
    assert records
    for record in records:
        assert record is not None
        for key in ("seed", "tasks", "evaluation", "inversion.images_per_class", "inversion.meta_generator"):
            if key in record["config"]:
                value = parameters
                for part in key.split("."):
                    value = value[part]
                assert record["config"][key] == value, f"{record['stage']} {record['wildcards']}: {key}"


def test_dvc_after_snakemake_records_without_computing_and_so_does_a_clone(recorded: Project, tmp_path: Path) -> None:
    assert recorded.computed == set()
    project = recorded.copy(tmp_path / "project")
    assert (project.folder / "dvc.lock").is_file()
    assert project.snakemake() == set()
    assert "Nothing to be done" in project.last.stdout + project.last.stderr
    project.run("dvc", "remote", "add", "--force", "--default", "--local", "store", str(tmp_path / "store"))
    project.run("dvc", "push")
    clone = project.clone(tmp_path / "clone")
    clone.run("dvc", "remote", "add", "--default", "--local", "store", str(tmp_path / "store"))
    clone.run("dvc", "pull")
    assert clone.snakemake() == set()
    assert clone.dvc_repro() == set()
    assert "up to date" in clone.run("dvc", "status").stdout


def test_no_order_of_commands_pairs_an_old_output_with_a_new_parameter(recorded: Project, tmp_path: Path) -> None:
    project = recorded.copy(tmp_path / "project")
    changed = {"few_shot", "networks", "report_page"}

    # A parameter changes; Snakemake computes, then `dvc checkout` brings the old outputs back under the new parameter.
    project.change("evaluation.episodes", 22)
    assert project.snakemake() == changed
    project.run("dvc", "checkout", "--force")
    assert project.snakemake() == changed
    assert project.dvc_repro() == set()
    assert_records_match_parameters(project)
    project.commit("22 episodes")

    # Check out the earlier commit with both tools, then run Snakemake.
    project.run("git", "checkout", "--quiet", "HEAD~1")
    project.run("dvc", "checkout", "--force")
    assert project.snakemake() == set()
    assert_records_match_parameters(project)

    # Check out the earlier commit with git only: newer outputs under the older parameter.
    project.run("git", "checkout", "--quiet", "main")
    project.run("dvc", "checkout", "--force")
    project.run("git", "checkout", "--quiet", "HEAD~1")
    assert project.dvc_repro() == changed
    assert_records_match_parameters(project)


@pytest.mark.slow  # both recompute old outputs under another parameter in the test above as well
@pytest.mark.parametrize("first", ["snakemake", "dvc"])
def test_fresh_clone_with_a_changed_parameter_is_recomputed(recorded: Project, tmp_path: Path, first: str) -> None:
    clone = recorded.clone(tmp_path / "clone")
    shutil.copytree(recorded.folder / ".dvc/cache", clone.folder / ".dvc/cache")
    clone.run("dvc", "checkout")
    clone.change("evaluation.episodes", 23)
    computed = clone.snakemake() if first == "snakemake" else clone.dvc_repro()
    assert computed == {"few_shot", "networks", "report_page"}
    assert_records_match_parameters(clone)
