"""Plans: what a job reads is in its configuration by value, and a plan survives its file."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from datafree import artifacts
from datafree.config import resolve
from datafree.errors import UserError
from datafree.workflow import plan as plans
from datafree.workflow.code import PACKAGE
from datafree.workflow.plan import Plan
from tests.workflow.conftest import ROOT

BASE = {
    "zoo": {"limit": 2},
    "meta": {
        "seeds": [0, 1],
        "arms": {
            "bell": {"inversion": "five"},
            "searched": {"method": "distillation", "backbone": {"name": "mbconv", "genotype": "searched"}},
        },
    },
    "nas": {"algorithms": {"a": {"method": "spos"}, "b": {"method": "random"}}},
    "evaluation": {"oracle_steps": 5},  # otherwise those of the oracles follow from the arms
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(**changes: dict) -> Plan:
    return plans.make_plan(resolve({**BASE, **changes}), ROOT)


def specifications(plan: Plan) -> dict[str, dict]:
    return {job.name: job.specification() for job in plan.jobs()}


def changed(**changes: dict) -> set[str]:
    """Stages of which a job of both plans has another configuration."""
    before, after = specifications(make()), specifications(make(**changes))
    return {name.partition("/")[0] for name in before.keys() & after if before[name] != after[name]}


def test_a_plan_survives_its_file_and_making_one_writes_nothing() -> None:
    plan = make()
    assert not list(Path().iterdir())
    plan.write(Path("plans/p.json"))
    again = Plan.read(Path("plans/p.json"))
    assert json.dumps(specifications(again)) == json.dumps(specifications(plan))
    assert (again.hardware, again.shards) == (plan.hardware, plan.shards)
    assert again.source.as_tree() == plan.source.as_tree()
    assert again.code == plan.source.hash_of_all()
    assert resolve(again.settings) == resolve(BASE) or again.settings["precision"] != "auto"  # hardware is resolved in a plan


def test_old_plans_are_deleted() -> None:
    plan = make()
    for number in range(plans.KEPT + 3):
        plan.write(plans.FOLDER / f"{number:02}.json")
        (plans.FOLDER / f"{number:02}{plans.STARTED}").touch()
    assert len(list(plans.FOLDER.glob("*.json"))) == plans.KEPT
    assert not (plans.FOLDER / f"00{plans.STARTED}").exists()


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_missing_or_damaged_plan_is_one_line_and_no_last_plan(content: str | None) -> None:
    path = plans.FOLDER / "1.json"
    if content is not None:
        artifacts.write_text(path, content)
    with pytest.raises(UserError, match="1.json"):
        Plan.read(path)
    assert plans.newest_plan() is None


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        # A job whose input files are others has another configuration, although it reads none of these keys itself.
        ({"meta": {**BASE["meta"], "seeds": [0]}}, {"few_shot", "networks", "report_page"}),
        ({"meta": {**BASE["meta"], "arms": {"bell": {"inversion": "five"}}}}, {"few_shot", "networks", "report_page"}),
        ({"nas": {**BASE["nas"], "searched": "b"}}, {"learner", "report_page"}),
        ({"zoo": {"limit": 1}}, {"report_page"}),  # jobs that read the index of the teachers see another index
        ({"jobs_per_gpu": 2}, set()),
        ({"tracking": {"enabled": False}}, set()),
    ],
)
def test_a_changed_setting_changes_the_jobs_that_depend_on_it(changes: dict, stages: set[str]) -> None:
    assert changed(**changes) == stages


def test_a_study_may_have_no_search() -> None:
    plan = make(nas={"algorithms": {"spos": None}}, meta={**BASE["meta"], "arms": {"bell": {"inversion": "five"}}})
    stages = {job.name.partition("/")[0] for job in plan.jobs()}
    assert "learner" in stages and not {"search", "retrain"} & stages


def test_a_trained_teacher_depends_on_training_and_seed_and_a_given_one_on_its_file() -> None:
    Path("zoo.yaml").write_text("teachers:\n  - {name: a, train: {classes: 3}}\n  - {name: b, file: w.safetensors, classes: [x, y, z]}\n")
    Path("w.safetensors").write_bytes(b"first")
    settings = {"zoo": {"manifest": str(Path("zoo.yaml").absolute())}, "tasks": {"way": 2}}
    before = specifications(make(**settings))
    Path("w.safetensors").write_bytes(b"other")
    assert specifications(make(**settings))["teacher/b"] != before["teacher/b"]
    after = specifications(make(**settings, seed=1))
    assert after["teacher/b"]["config"]["teachers.b"]["seed"] is None
    assert after["teacher/a"] != before["teacher/a"]
    assert "processor" in after["teacher/a"]["config"]
    assert "processor" not in after["teacher/b"]["config"]  # it is copied


def test_every_key_that_a_stage_declares_is_read_in_its_source() -> None:
    for stage in plans.STAGES:
        source = (PACKAGE / "stages" / f"{stage}.py").read_text()
        read = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        for key in plans.declaration(stage).reads:
            assert key in read or key.partition(".")[0] in source
