"""Deals: every job of a stage is on one shard, shards fit the cores and GPUs of a run, and another number of them repeats nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafree.config import load
from datafree.workflow import deals
from datafree.workflow import plan as plans
from datafree.workflow.deals import Capacity
from datafree.workflow.plan import Plan
from datafree.workflow.provenance import Records
from datafree.workflow.run import Run
from tests.workflow.conftest import ROOT

WITHOUT_PYTORCH = {"report_page"}
PROCESSES = Capacity(processes=2, on_gpus=0)


@pytest.fixture(scope="module")
def default_plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("plan"))
        return plans.make_plan(load(ROOT / "params.yaml"), ROOT)


def dealt(plan: Plan, capacity: Capacity) -> dict[str, deals.Shards]:
    return Run(plan, Path("plan.json"), False).deal(capacity)


def processes(plan: Plan, capacity: Capacity) -> int:
    """How many processes of a run in an empty folder import PyTorch."""
    shards = dealt(plan, capacity)
    return sum(len(shards[stage]) if stage in shards else len(plan.wildcards_of(stage)) for stage in set(plans.STAGES) - WITHOUT_PYTORCH)


@pytest.mark.parametrize(("preset", "most"), [(None, 18), ("smoke", 15)])
def test_a_run_on_two_cores_starts_few_processes(preset: str | None, most: int, empty_folder: Path) -> None:
    files = [ROOT / "params.yaml", *([ROOT / f"presets/{preset}.yaml"] if preset else [])]
    assert 10 < processes(plans.make_plan(load(*files), ROOT), PROCESSES) <= most


def test_the_cifar_fs_study_starts_few_processes(empty_folder: Path) -> None:
    teachers = "".join(f"  - {{name: t{number}, train: {{classes: 5}}}}\n" for number in range(100))
    (empty_folder / "zoo.yaml").write_text(f"teachers:\n{teachers}")
    (empty_folder / "here.yaml").write_text(f"zoo: {{manifest: {empty_folder / 'zoo.yaml'}}}\ndata: {{source: glyphs, folder: null}}\n")
    presets = [ROOT / f"presets/{name}.yaml" for name in ("cifar-fs", "cifar-fs-study")]
    plan = plans.make_plan(load(ROOT / "params.yaml", *presets, empty_folder / "here.yaml"), ROOT)
    assert len(plan.tree["learners"]) > 75 and len(plan.tree["methods"]) == 7
    assert 20 < processes(plan, PROCESSES) <= 60
    assert processes(plan, Capacity(processes=16, on_gpus=1)) >= processes(plan, PROCESSES)  # only jobs that use a GPU wait for it
    gpu = dataclasses.replace(plan, hardware=dataclasses.replace(plan.hardware, device="cuda"))
    assert processes(gpu, Capacity(processes=16, on_gpus=1)) <= processes(plan, PROCESSES) <= processes(gpu, Capacity(16, 4)) <= 60


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@given(slots=st.integers(1, 40))
def test_every_job_is_on_one_shard_with_jobs_of_the_same_inputs(default_plan: Plan, slots: int) -> None:
    for stage in deals.SHARDED:
        jobs = default_plan.wildcards_of(stage)
        shards = deals.deal(default_plan.tree, stage, jobs, slots)
        assert deals.is_deal_of(shards, default_plan.tree, stage, jobs)
        assert all(shards.values())
        groups = {deals.input_group(default_plan.tree, stage, names) for names in jobs}
        assert len(groups) <= len(shards) < slots + len(groups)


def test_shards_use_all_slots_and_are_of_equal_length(default_plan: Plan) -> None:
    teachers = deals.deal(default_plan.tree, "teacher", default_plan.wildcards_of("teacher"), 4)
    assert sorted(map(len, teachers.values())) == [4] * 4
    learners = deals.deal(default_plan.tree, "learner", default_plan.wildcards_of("learner"), 3)
    assert [len(members) for members in learners.values()] == [2, 2, 2]
    pools = deals.deal(default_plan.tree, "invert", default_plan.wildcards_of("invert"), 1)
    assert [{names["method"] for names in members} for members in pools.values()] == [{"deep_inversion"}, {"five"}]  # other inputs


def test_long_jobs_come_first_and_balance_short_ones(default_plan: Plan) -> None:
    tree = json.loads(json.dumps(default_plan.tree))
    steps = {"a": 1000, "b": 300, "c": 900, "d": 200, "e": 600}
    tree["meta"]["arms"] = {name: {"inversion": "five", "steps": count} for name, count in steps.items()}
    tree["architectures"]["learner"] = dict.fromkeys(steps)
    shards = deals.deal(tree, "learner", [{"arm": name, "seed": "0"} for name in steps], 2)
    arms = [[names["arm"] for names in members] for members in shards.values()]
    assert arms == [["a", "b", "d"], ["c", "e"]]


def test_the_learners_of_an_arm_share_a_shard_as_far_as_all_slots_are_used(default_plan: Plan) -> None:
    jobs = default_plan.wildcards_of("learner")
    for slots, arms in ((1, [2]), (2, [1, 1]), (4, [1] * 4), (6, [1] * 6)):
        shards = deals.deal(default_plan.tree, "learner", jobs, slots)
        assert [len({names["arm"] for names in members}) for members in shards.values()] == arms
        assert deals.is_deal_of(shards, default_plan.tree, "learner", jobs)


def test_a_few_steps_are_not_worth_a_process(default_plan: Plan) -> None:
    tree = json.loads(json.dumps(default_plan.tree))
    for arm in tree["meta"]["arms"].values():
        arm["steps"] = 3
    assert len(deals.deal(tree, "learner", default_plan.wildcards_of("learner"), 8)) == 1


def test_other_jobs_or_inputs_are_no_deal_of_a_stage(default_plan: Plan) -> None:
    tree, jobs = default_plan.tree, default_plan.wildcards_of("invert")
    shards = deals.deal(tree, "invert", jobs, 2)
    assert deals.is_deal_of(shards, tree, "invert", jobs)
    assert not deals.is_deal_of({}, tree, "invert", jobs)
    assert not deals.is_deal_of(shards, tree, "invert", jobs[1:])
    assert not deals.is_deal_of({**shards, "9": [jobs[0]]}, tree, "invert", jobs)
    assert not deals.is_deal_of({"0": [names for members in shards.values() for names in members]}, tree, "invert", jobs)


def test_only_stages_from_the_first_unfinished_job_on_are_dealt_anew(default_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished: set[str] = set()
    monkeypatch.setattr(Records, "stale_reason", lambda self, job, source: "not yet run" if job.stage in unfinished else "")
    few = dealt(default_plan, Capacity(2, 0))
    plan = dataclasses.replace(default_plan, shards=few)
    assert dealt(plan, Capacity(8, 0)) == few
    unfinished.add("learner")
    more = dealt(plan, Capacity(8, 0))
    assert {stage for stage in more if more[stage] != few[stage]} == {"learner", "reference"}
    assert len(more["learner"]) == 6
    assert more["retrain"] == more["search"]
