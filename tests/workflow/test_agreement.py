"""dvc.yaml agrees with the Snakefile, and the rules with what the stages declare."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from datafree.workflow.plan import STAGES, declaration
from tests.workflow.conftest import ROOT, Project

# Parameters from which the parts of a plan follow that are no section of params.yaml.
DERIVED = {
    "teachers": ["seed", "zoo"],
    "references": ["zoo.training", "evaluation", "backbone", "tasks"],
    "methods": ["inversion.methods"],
    "learners": ["meta"],
    "architectures": ["meta", "nas.searched"],
    "image_files": ["data"],
}


@pytest.fixture(scope="module")
def jobs(empty_project: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    return planned(empty_project.copy(tmp_path_factory.mktemp("planned") / "project"))


def planned(project: Project, *settings: str) -> dict[str, list[dict]]:
    """By stage: inputs and outputs of every job, from a forced dry run; one job of each shard, with wildcards in its paths."""
    text = project.run("snakemake", "--dry-run", "--forceall", "--printshellcmds", *settings).stdout
    by_stage: dict[str, list[dict]] = {}
    for line in re.findall(r"-m datafree stage (.*) > logs/", text):
        stage, *words = shlex.split(line)
        pairs = [(flag, word.partition("=")[2]) for flag, word in itertools.pairwise(words)]
        job = {kind: [path for flag, path in pairs if flag == option] for kind, option in (("inputs", "-i"), ("outputs", "-o"))}
        by_stage.setdefault(stage, []).append(job)
    assert by_stage
    return by_stage


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
            for key in declaration(rule).reads:
                for parameter in DERIVED.get(key.partition(".")[0], [key]):
                    assert _under(parameter.replace(".", "/"), [p.replace(".", "/") for p in stage["params"]]), f"{name}: {key}"
    assert covered == set(jobs) == set(STAGES)


def test_every_stage_writes_its_record_where_it_declares(jobs: dict[str, list[dict]]) -> None:
    for stage, members in jobs.items():
        pattern = re.sub(r"\\\{\w+\\\}", r"[\\w{}-]+", re.escape(declaration(stage).folder))
        for job in members:
            (record,) = [path for path in job["outputs"] if path.endswith("/provenance.json")]
            assert re.fullmatch(f"{pattern}/provenance.json", record)


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


def test_every_dvc_stage_depends_on_the_code() -> None:
    assert all("src/datafree" in stage["deps"] for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values())


def test_every_output_of_the_pipeline_is_versioned_or_ignored() -> None:
    ignored = Path(ROOT / ".gitignore").read_text()
    for name in ("artifacts", "logs", ".datafree", ".snakemake"):
        assert f"/{name}/" in ignored


@pytest.mark.parametrize("target", ["meta", "artifacts/evaluation/few_shot/results.json"])
def test_any_target_can_be_planned_in_an_empty_folder(empty_project: Project, tmp_path: Path, target: str) -> None:
    project = empty_project.copy(tmp_path / "project")
    shutil.rmtree(project.folder / ".datafree", ignore_errors=True)
    planned = project.run("snakemake", "--dry-run", "--", target).stdout
    assert "meta-generator across the teachers" in planned


def test_the_meta_generator_is_trained_only_for_methods_that_start_from_it(empty_project: Project, tmp_path: Path) -> None:
    project = empty_project.copy(tmp_path / "project")
    project.change("inversion.methods.five.initialisation", "random")
    jobs = planned(project)
    assert "invert" in jobs
    assert "meta_generator" not in jobs
    assert not [path for members in jobs.values() for job in members for path in job["inputs"] if "generator" in path]


def test_snakemake_counts_the_jobs_that_share_gpus(empty_project: Project, tmp_path: Path) -> None:
    project = empty_project.copy(tmp_path / "project")
    done = project.run("snakemake", "--cores", "1", "--resources", "gpu=3", "--config", "jobs_per_gpu=2", "--", ".datafree/plans/x.started")
    assert re.search(r"Provided resources: .*gpu\D+6\b", done.stdout + done.stderr)
