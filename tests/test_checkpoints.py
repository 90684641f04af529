import os
from pathlib import Path

import pytest
import torch

from datafree import checkpoints
from datafree.checkpoints import Checkpoint, SavedState
from datafree.workflow.job_checkpoints import checkpoint_of
from datafree.workflow.provenance import Job


class Value:
    """An object with a state dict of one tensor."""

    def __init__(self, value):
        self.value = torch.tensor(value)

    def state_dict(self):
        return {"value": self.value.clone()}

    def load_state_dict(self, state):
        self.value = state["value"]


def saved(path, fingerprint="fingerprint"):
    checkpoint = Checkpoint(path, fingerprint, seconds_between=0)
    checkpoint.save(7, [{"step": 7, "loss": 0.5}], a=Value(1.5), b=Value(2.5))
    return checkpoint


def test_states_step_and_curve_are_restored(tmp_path):
    saved(tmp_path / "c.pt")
    a, b = Value(0.0), Value(0.0)
    assert Checkpoint(tmp_path / "c.pt", "fingerprint").restore(a=a, b=b) == (7, [{"step": 7, "loss": 0.5}])
    assert (a.value, b.value) == (1.5, 2.5)


def test_a_part_of_a_large_tensor_is_saved_without_the_rest(tmp_path):
    whole = torch.arange(100_000.0)
    state = SavedState()
    state.values = {"row": whole[3:5], "nested": {"rows": [whole.view(100, 1000)[7]]}, "name": "pool", "betas": (0.5, 0.9)}
    Checkpoint(tmp_path / "c.pt").write(1, [], state=state)
    assert (tmp_path / "c.pt").stat().st_size < 20_000
    restored = SavedState()
    Checkpoint(tmp_path / "c.pt").restore(state=restored)
    assert restored.values["row"].tolist() == [3.0, 4.0]
    assert torch.equal(restored.values["nested"]["rows"][0], torch.arange(7000.0, 8000.0))
    assert (restored.values["name"], restored.values["betas"]) == ("pool", (0.5, 0.9))


def test_an_optimiser_and_its_schedule_are_restored(tmp_path):
    def make():
        weight = torch.nn.Parameter(torch.ones(3))
        optimiser = torch.optim.AdamW([weight], lr=0.1)
        return weight, optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=9)

    def go(weight, optimiser, schedule):
        weight.grad = weight.detach() ** 2
        optimiser.step()
        schedule.step()

    weight, optimiser, schedule = make()
    for _ in range(4):
        go(weight, optimiser, schedule)
    Checkpoint(tmp_path / "c.pt", seconds_between=0).save(4, [], optimiser=optimiser, schedule=schedule)
    other, other_optimiser, other_schedule = make()
    assert Checkpoint(tmp_path / "c.pt").restore(optimiser=other_optimiser, schedule=other_schedule)[0] == 4
    with torch.no_grad():
        other.copy_(weight)
    for _ in range(4):
        go(weight, optimiser, schedule)
        go(other, other_optimiser, other_schedule)
    assert torch.equal(weight, other)


@pytest.mark.parametrize("reason", ["missing", "other fingerprint", "other parts", "no path"])
def test_a_checkpoint_that_does_not_match_is_ignored(tmp_path, reason):
    path = tmp_path / "c.pt"
    if reason != "missing":
        saved(path)
    checkpoint = Checkpoint(None if reason == "no path" else path, "other fingerprint" if reason == "other fingerprint" else "fingerprint")
    targets = {"a": Value(0.0)} if reason == "other parts" else {"a": Value(0.0), "b": Value(0.0)}
    assert checkpoint.restore(**targets) == (0, [])
    assert targets["a"].value == 0


@pytest.mark.parametrize("damage", ["half", "empty", "noise", "headless", "list", "other keys"])
def test_a_damaged_checkpoint_is_ignored(tmp_path, damage):
    path = tmp_path / "c.pt"
    saved(path)
    content = bytearray(path.read_bytes())
    if damage in ("list", "other keys"):
        torch.save([1, 2] if damage == "list" else {"fingerprint": "fingerprint"}, path)
    elif damage == "headless":
        content[:4] = b"\xff\xff\xff\xff"
        path.write_bytes(content)
    else:
        path.write_bytes({"half": content[: len(content) // 2], "empty": b"", "noise": b"\x80\x02noise" * 9}[damage])
    assert Checkpoint(path, "fingerprint").restore(a=Value(0.0), b=Value(0.0)) == (0, [])


def test_checkpoints_are_saved_at_the_given_interval(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path / "c.pt", "fingerprint", seconds_between=20)
    saved_steps = []
    for step, now[0] in enumerate((110, 121, 130, 140, 141.5)):
        checkpoint.save(step, [], a=Value(0.0))
        saved_steps.append(Checkpoint(tmp_path / "c.pt", "fingerprint").restore(a=Value(0.0))[0])
    assert saved_steps == [0, 1, 1, 1, 4]


def test_clear_deletes_the_file_and_may_be_repeated(tmp_path):
    checkpoint = saved(tmp_path / "c.pt")
    checkpoint.clear()
    checkpoint.clear()
    Checkpoint(None).clear()
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_a_full_disk_is_an_operating_system_error_and_keeps_the_last_checkpoint(tmp_path, full_disk):
    checkpoint = saved(tmp_path / "c.pt")
    with full_disk(), pytest.raises(OSError, match="too large"):
        checkpoint.save(8, [], a=Value([0.0] * 9999), b=Value(0.0))
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]
    assert Checkpoint(tmp_path / "c.pt", "fingerprint").restore(a=Value(0.0), b=Value(0.0))[0] == 7


def test_the_fingerprint_of_a_job_depends_on_settings_code_and_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").write_text("content")

    def checkpoint(config=1, code="c", wildcard="x"):
        return checkpoint_of(Job("learner", {"arm": wildcard}, {"steps": config}, code, {"data": "in"}, {"provenance": "p"}))

    first = checkpoint()
    assert first.path == Path(".datafree/checkpoints/learner.x.pt")
    assert checkpoint().fingerprint == first.fingerprint
    assert checkpoint(wildcard="y").path != first.path
    others = [checkpoint(config=2), checkpoint(code="d")]
    Path("in").write_text("other content")
    others.append(checkpoint())
    assert len({other.fingerprint for other in others} | {first.fingerprint}) == 4
