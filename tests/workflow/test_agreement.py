"""dvc.yaml agrees with the Snakefile."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from datafree.workflow.provenance import PACKAGE, code_files
from tests.workflow.conftest import ROOT, Project


@pytest.fixture(scope="module")
def jobs(empty_project: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    return planned(empty_project.copy(tmp_path_factory.mktemp("planned") / "project"))


def planned(project: Project, *settings: str) -> dict[str, list[dict]]:
    """By rule: every job's inputs, outputs and card, from a forced dry run."""
    text = project.run("snakemake", "--dry-run", "--forceall", "--printshellcmds", *settings).stdout
    by_rule: dict[str, list[dict]] = {}
    for card, files in re.findall(r"datafree stage --job (\S+) (.*)", text):
        job = {"card": json.loads((project.folder / card).read_text())}
        job |= {"inputs": re.findall(r"-i \w+=(\S+)", files), "outputs": re.findall(r"-o \w+=(\S+)", files)}
        by_rule.setdefault(job["card"]["stage"], []).append(job)
    assert by_rule
    return by_rule


def _under(path: str, folders: list[str]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def test_every_job_is_covered_by_a_dvc_stage_with_its_files_and_parameters(jobs: dict[str, list[dict]]) -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    covered = set()
    for name, stage in stages.items():
        rules = re.search(r"--forcerun ([\w ]+) -- (\w+)", stage["cmd"])
        assert rules and rules[2] == name
        outs = [key for entry in stage["outs"] + stage.get("metrics", []) for key in entry]
        for rule in rules[1].split():
            covered.add(rule)
            for job in jobs[rule]:
                for path in job["outputs"]:
                    assert _under(path, outs), f"{name}: {path} is not under outs"
                for path in job["inputs"]:
                    assert _under(path, stage["deps"] + outs), f"{name}: {path} is not under deps"
                for key in set(job["card"]["config"]) - {"processor"}:  # resolved, not a parameter
                    section = {"teacher": "zoo", "inversion.method": "inversion", "meta.arm": "meta", "nas.algorithm": "nas"}.get(key, key)
                    section = "evaluation" if key.startswith("references.") else section
                    assert _under(section.replace(".", "/"), [p.replace(".", "/") for p in stage["params"]]), f"{name}: {key}"
    assert covered == set(jobs)


TEST_CLASSES = "artifacts/data/test.safetensors"


def test_only_few_shot_reads_the_test_classes_and_only_the_report_reads_its_results(empty_project: Project, tmp_path: Path) -> None:
    jobs = planned(empty_project.copy(tmp_path / "project"), "--config", 'evaluation={"split": "test"}')
    readers = [rule for rule, members in jobs.items() for job in members if TEST_CLASSES in job["inputs"]]
    assert readers == ["few_shot"]
    seen = {path for job in jobs["few_shot"] for path in job["outputs"]}
    seen |= {path for job in jobs["images"] for path in job["outputs"] if not path.endswith(".safetensors")}  # previews show all splits
    assert {rule for rule, members in jobs.items() for job in members if seen & set(job["inputs"])} == {"report_page"}


def test_with_the_validation_split_no_job_reads_the_test_classes(empty_project: Project, tmp_path: Path) -> None:
    project = empty_project.copy(tmp_path / "project")
    jobs = planned(project, "--config", 'evaluation={"split": "validation"}', 'nas={"algorithms": {"spos": {"max_macs": null}}}')
    inputs = {path for members in jobs.values() for job in members for path in job["inputs"]}
    assert TEST_CLASSES not in inputs
    assert "artifacts/data/validation.safetensors" in inputs
    assert [job["card"]["config"]["nas.algorithm"]["max_macs"] for job in jobs["search"]] == [None]


def test_every_stage_depends_on_its_code(jobs: dict[str, list[dict]]) -> None:
    for rule in jobs:
        files = code_files(f"datafree.stages.{rule}")
        assert PACKAGE / "stages" / f"{rule}.py" in files
    assert all("src/datafree" in stage["deps"] for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values())


def test_every_output_of_the_pipeline_is_versioned_or_ignored() -> None:
    ignored = Path(ROOT / ".gitignore").read_text()
    for name in ("artifacts", "logs", ".datafree", ".snakemake"):
        assert f"/{name}/" in ignored


@pytest.mark.parametrize("target", ["meta", "evaluation", "artifacts/evaluation/few_shot/results.json"])
def test_any_target_can_be_planned_in_an_empty_folder(empty_project: Project, tmp_path: Path, target: str) -> None:
    project = empty_project.copy(tmp_path / "project")
    shutil.rmtree(project.folder / ".datafree", ignore_errors=True)
    planned = project.run("snakemake", "--dry-run", "--", target).stdout
    assert "meta-generator across the teachers" in planned


def test_the_meta_generator_is_trained_only_for_methods_that_start_from_it(empty_project: Project, tmp_path: Path) -> None:
    project = empty_project.copy(tmp_path / "project")
    project.change("inversion.methods.five.initialisation", "random")
    commands = re.findall(r"datafree stage --job (.*)", project.run("snakemake", "--dry-run", "--printshellcmds").stdout)
    assert any("jobs/invert.five.glyphs-00" in command for command in commands)
    assert not [command for command in commands if "generator" in command]
