"""The table of ``datafree status``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from datafree.artifacts import write_json
from datafree.config import load
from datafree.workflow import plan as plans
from datafree.workflow.plan import Plan
from datafree.workflow.status import job_states, print_status
from tests.workflow.conftest import ROOT

MODULES = ["datafree.stages.teacher"]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    return plans.make_plan(load(ROOT / "params.yaml", ROOT / "presets/smoke.yaml"), ROOT)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        (None, "not yet run"),
        ({}, "done"),
        ({"config": {}}, "parameter changed: teachers.glyphs-00"),
        ({"code": {"modules": MODULES, "hash": "d"}}, "code changed"),
        ({"wildcards": []}, "not yet run"),  # damaged
        ({"outputs": {"artifacts/zoo/glyphs-00/card.json": "0"}}, "output missing: artifacts/zoo/glyphs-00/card.json"),
    ],
)
def test_states(plan: Plan, changes: dict | None, state: str) -> None:
    job = plan.job("teacher", {"teacher": "glyphs-00"})
    record = {**job.specification(), "code": {"modules": MODULES, "hash": plan.source.hash_of(MODULES)}, "inputs": {}, "outputs": {}}
    if changes is not None:
        write_json(job.outputs["provenance"], {**record, **changes})
    states = dict(job_states(plan))
    assert states["teacher/glyphs-00"] == state
    assert states["teacher/glyphs-01"] == "not yet run"


def test_all_jobs_of_the_study_are_listed_in_the_order_of_the_stages(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name, _ in job_states(plan)]
    stages = list(dict.fromkeys(name.partition("/")[0] for name in names))
    assert stages == list(plans.STAGES)
    assert {"invert/five/glyphs-02", "learner/bell/0", "retrain/spos", "reference/judge", "reference/oracle"} <= set(names)
    print_status(plan)
    assert f"0 of {len(names)} jobs done" in capsys.readouterr().out


def test_the_meta_generator_is_listed_only_if_a_method_starts_from_it(plan: Plan) -> None:
    methods = {"deep_inversion": plan.tree["inversion"]["methods"]["deep_inversion"]}
    tree = {**plan.tree, "methods": ["deep_inversion"], "inversion": {**plan.tree["inversion"], "methods": methods}}
    assert "meta_generator" not in dict(job_states(dataclasses.replace(plan, tree=tree)))
