import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafree import artifacts
from datafree.errors import UserError
from datafree.workflow import provenance
from datafree.workflow.code import Source, SourceFile
from datafree.workflow.provenance import Job

# ---- jobs -------------------------------------------------------------------------------------------------------------------------------


CODE = {"stages/learner.py": SourceFile("a", "a", ("datafree.meta.bell",)), "meta/bell.py": SourceFile("b", "b", ())}
SOURCE = Source(CODE)
EDITED = Source({**CODE, "meta/bell.py": SourceFile("c", "c", ())})


def write_record(job: Job, source: Source = SOURCE) -> None:
    """Record a job whose outputs exist as if this process had written them."""
    for path in job.result_paths():
        artifacts.write_text(path, Path(path).read_text())
    inputs = {path: artifacts.sha256(path) for path in job.input_paths()}
    provenance.write_record(job, [job.module], source, inputs, {"python": "3"})


def stale_reason(job: Job, source: Source = SOURCE) -> str:
    return provenance.stale_reason(job, source)


def known_reason(job: Job, source: Source = SOURCE) -> str:
    """The reason from records alone, as Snakemake's start finds it."""
    return provenance.Records().stale_reason(job, source)


def a_job(**changes) -> Job:
    parts = {
        "stage": "learner",
        "wildcards": {"arm": "bell", "seed": "0"},
        "config": {"seed": 0, "meta.arms.bell": {"steps": 5, "temperature": 4.0}},
        "code": "c0de",
        "inputs": {"pools": ["in/a", "in/b"], "episodes": "in/e"},
        "outputs": {"learner": "out/learner", "card": "out/card", "provenance": "out/provenance.json"},
    }
    return Job(**{**parts, **changes})


def test_name_and_files_of_a_job():
    job = a_job()
    assert job.name == "learner/bell/0"
    assert job.input("episodes") == Path("in/e")
    assert job.input_list("pools") == [Path("in/a"), Path("in/b")]
    assert job.input_list("episodes") == [Path("in/e")]
    assert job.input_list("architecture") == []
    assert list(job.input_paths()) == ["in/a", "in/b", "in/e"]
    assert job.output("card") == Path("out/card")
    with pytest.raises(TypeError, match="`pools` names several files"):
        job.input("pools")


# ---- up to date or stale-----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A folder in which ``a_job()`` is done."""
    monkeypatch.chdir(tmp_path)
    for path in ("in/a", "in/b", "in/e", "out/learner", "out/card"):
        artifacts.write_text(path, f"content of {path}")
    write_record(a_job())
    return tmp_path


def test_a_finished_job_is_up_to_date(finished):
    assert stale_reason(a_job()) == ""


REASONS = {
    "no record": lambda: os.unlink("out/provenance.json"),  # noqa: PTH108
    "input changed: in/b": lambda: Path("in/b").write_text("other"),
    "output missing or changed: out/card": lambda: Path("out/card").write_text("other"),
    "output missing or changed: out/learner": lambda: Path("out/learner").unlink(),
}


@pytest.mark.parametrize("reason", REASONS)
def test_a_change_on_disk_makes_a_job_stale(finished, reason):
    REASONS[reason]()
    assert stale_reason(a_job()) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": {"seed": 1, "meta.arms.bell": {"steps": 5, "temperature": 4.0}}}, "parameter changed: seed"),
        ({"config": {"seed": 0, "meta.arms.bell": {"steps": 6, "temperature": 4.0}}}, "parameter changed: meta.arms.bell"),
        ({"config": {"seed": 0}}, "parameter changed: meta.arms.bell"),
        ({"config": {"seed": 0, "meta.arms.bell": {"steps": 5, "temperature": 4.0}, "tasks": {}}}, "parameter changed: tasks"),
        ({"stage": "retrain"}, "recorded for another job"),
        ({"wildcards": {"arm": "bell", "seed": "1"}}, "recorded for another job"),
        ({"inputs": {"pools": ["in/a", "in/b"], "episodes": "in/e", "architecture": "in/c"}}, "other input files"),
        ({"inputs": {"pools": ["in/a"], "episodes": "in/e"}}, "other input files"),
        ({"outputs": {"learner": "out/learner", "provenance": "out/provenance.json"}}, "other output files"),
    ],
)
def test_another_specification_makes_a_job_stale(finished, changes, reason):
    assert stale_reason(a_job(**changes)) == reason


@pytest.mark.parametrize("inputs", [{"pools": ["in/b", "in/a"], "episodes": "in/e"}, {"pools": ["in/a", "in/e"], "episodes": "in/b"}])
def test_the_same_files_in_another_order_or_role_are_other_inputs(finished, inputs):
    assert stale_reason(a_job(inputs=inputs)) == "other input files"


def test_a_missing_input_is_a_user_error(finished):
    Path("in/a").unlink()
    with pytest.raises(UserError, match="in/a: the file is missing"):
        stale_reason(a_job())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda i: st.lists(i) | st.dictionaries(st.text(), i)
)
PARTS = ["stage", "wildcards", "config", "code", "inputs", "outputs"]


@given(json_values | st.fixed_dictionaries({}, optional=dict.fromkeys(PARTS, st.sampled_from([None, 1, "x", [], {}]))))
def test_any_other_content_of_a_record_makes_a_job_stale(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("record")
    record = folder / "provenance.json"
    artifacts.write_json(record, value)
    job = a_job(inputs={}, outputs={"provenance": str(record)})
    assert stale_reason(job) != ""
    assert known_reason(job) != ""


def test_a_record_has_no_time_and_no_paths_of_the_machine(finished):
    before = Path("out/provenance.json").read_bytes()
    time.sleep(0.01)
    write_record(a_job())
    assert Path("out/provenance.json").read_bytes() == before
    record = json.loads(before)
    assert record["inputs"] == {path: artifacts.sha256(path) for path in ("in/a", "in/b", "in/e")}
    assert record["outputs"] == {path: artifacts.sha256(path) for path in ("out/learner", "out/card")}
    assert str(finished) not in before.decode()


def test_touching_outputs_changes_only_their_modification_times(finished):
    paths = ("out/learner", "out/card", "out/provenance.json")
    before = [Path(path).read_bytes() for path in paths]
    for path in paths:
        os.utime(path, (1, 1))
    provenance.touch_outputs(a_job())
    assert min(Path(path).stat().st_mtime for path in paths) > 1e9
    assert [Path(path).read_bytes() for path in paths] == before


def test_a_record_does_not_hash_what_another_process_wrote_later(finished):
    inputs = {path: artifacts.sha256(path) for path in a_job().input_paths()}
    Path("out/card").write_text("by another process")
    with pytest.raises(UserError, match="out/card was changed by another process; run again"):
        provenance.write_record(a_job(), ["datafree.stages.learner"], SOURCE, inputs, {})


def test_a_record_does_not_hash_an_input_that_changed_during_the_job(finished):
    inputs = {path: artifacts.sha256(path) for path in a_job().input_paths()}
    before = Path("out/provenance.json").read_bytes()
    Path("in/b").write_text("changed in the meantime")
    with pytest.raises(UserError, match="in/b changed while the job was computing, so its result is not recorded"):
        provenance.write_record(a_job(), ["datafree.stages.learner"], SOURCE, inputs, {})
    assert Path("out/provenance.json").read_bytes() == before


def test_an_output_that_this_process_did_not_write_is_not_recorded(finished):
    artifacts.write_text("out/other", "x")
    job = a_job(outputs={"other": "out/none", "provenance": "out/provenance.json"})
    with pytest.raises(UserError, match="out/none was not written"):
        provenance.write_record(job, [], SOURCE, {}, {})


# ---- code -------------------------------------------------------------------------------------------------------------------------------


def test_edited_code_makes_a_job_stale_and_its_reversal_does_not(finished):
    assert stale_reason(a_job(), EDITED) == known_reason(a_job(), EDITED) == "code changed"
    assert stale_reason(a_job(), SOURCE) == known_reason(a_job(), SOURCE) == ""
    assert stale_reason(a_job(), Source({**CODE, "meta/maml.py": SourceFile("d", "d", ())})) == ""  # code of another method


def test_a_record_names_the_modules_and_their_hash(finished):
    record = provenance.read_record("out/provenance.json")
    assert record is not None
    assert record["code"] == {"modules": ["datafree.stages.learner"], "hash": SOURCE.hash_of(["datafree.stages.learner"])}


@pytest.mark.parametrize("code", [None, "c0de", {}, {"modules": "x", "hash": ""}, {"modules": ["datafree.stages.learner"]}])
def test_a_record_without_readable_code_is_stale(finished, code):
    record = json.loads(Path("out/provenance.json").read_text())
    artifacts.write_json("out/provenance.json", {**record, "code": code})
    assert stale_reason(a_job()) == known_reason(a_job()) == "code changed"


# ---- what is known from records alone ---------------------------------------------------------------------------------------------------


def test_a_finished_job_is_known_to_be_up_to_date_without_reading_its_files(finished, monkeypatch):
    monkeypatch.setattr(artifacts, "sha256", None)
    assert known_reason(a_job()) == ""
    assert known_reason(a_job(config={"seed": 1})) == "parameter changed: meta.arms.bell"
    Path("out/card").unlink()
    assert known_reason(a_job()) == "output missing: out/card"
    Path("out/provenance.json").unlink()
    assert known_reason(a_job()) == "not yet run"


def test_an_input_that_its_producer_recorded_with_another_hash_is_known_to_have_changed(finished):
    outputs = {path: artifacts.sha256(path) for path in ("in/a", "in/b", "in/e")}
    upstream = {"stage": "invert", "wildcards": {}, "config": {}, "outputs": outputs}
    artifacts.write_json("in/provenance.json", upstream)
    assert known_reason(a_job()) == ""
    artifacts.write_json("in/provenance.json", {**upstream, "outputs": {**outputs, "in/b": "0" * 64}})
    assert known_reason(a_job()) == "input changed: in/b"


def test_an_index_is_compared_by_its_content(finished):
    artifacts.write_text("in/index.json", "first")
    job = a_job(inputs={"zoo": "in/index.json"})
    write_record(job)
    assert known_reason(job) == ""
    Path("in/index.json").write_text("second")
    assert known_reason(job) == "input changed: in/index.json"


@pytest.mark.parametrize("shift", [-1e9, -7200, 7200, 1e9])
def test_time_stamps_decide_nothing(finished, shift):
    for path in ("in/a", "in/b", "in/e", "out/learner", "out/card", "out/provenance.json"):
        os.utime(path, (time.time() + shift, time.time() + shift))
    assert stale_reason(a_job()) == known_reason(a_job()) == ""
    provenance.touch_outputs(a_job())
    times = {path: Path(path).stat().st_mtime for path in ("in/a", "in/b", "in/e", "out/learner", "out/card")}
    assert max(times["in/a"], times["in/b"], times["in/e"]) <= min(times["out/learner"], times["out/card"])  # as Snakemake demands


# ---- hardware ---------------------------------------------------------------------------------------------------------------------------

HERE = {"device": "cpu", "processor": "x86_64 AVX2", "precision": "float32"}
ELSEWHERE = [{"precision": "bfloat16"}, {"processor": "x86_64 AMX"}, {"device": "cuda", "processor": "NVIDIA H100"}]


def on(hardware, accept_other_hardware=False, **config) -> Job:
    return a_job(config={"seed": 0, **HERE, **hardware, **config}, accept_other_hardware=accept_other_hardware)


@pytest.mark.parametrize("hardware", ELSEWHERE)
def test_a_result_of_other_hardware_is_stale_unless_that_is_accepted(finished, hardware):
    write_record(on(hardware))
    key = next(iter(hardware))
    reason = f"made with {key} {hardware[key]}, not {HERE[key]}"
    assert stale_reason(on({})) == reason
    assert stale_reason(on({}, accept_other_hardware=True)) == ""
    assert stale_reason(on({}, accept_other_hardware=True, seed=1)) == "parameter changed: seed"
    assert stale_reason(on({}, seed=1)) == "parameter changed: seed"  # a changed parameter is reported first


def test_a_result_without_resolved_hardware_is_stale(finished):
    write_record(a_job(config={"seed": 0, "device": "auto", "precision": "auto"}))
    assert stale_reason(on({})) == "made with device auto, not cpu"


def test_the_index_of_a_gpu_does_not_matter(finished):
    write_record(on({"device": "cuda:1", "processor": "NVIDIA H100"}))
    assert stale_reason(on({"device": "cuda", "processor": "NVIDIA H100"})) == ""
    assert stale_reason(on({"device": "cuda", "processor": "Tesla T4"})) == "made with processor NVIDIA H100, not Tesla T4"


def test_computed_on_names_processor_and_precision():
    assert on({}).computed_on == "float32 on x86_64 AVX2"
