import pytest
import torch

from datafree import artifacts
from datafree.config import as_tree
from datafree.errors import UserError
from datafree.stages import teacher as stage
from datafree.stages.files.teachers import read_teacher
from datafree.workflow.provenance import Job
from datafree.zoo.manifest import Architecture, Entry
from datafree.zoo.teachers import empty_network

ENTRY = Entry(
    name="t",
    architecture=Architecture("resnet20", 4),
    file="w.pth",
    classes=["a", "b"],
    keys={"linear": "head", "": "backbone"},
    licence="MIT",
)


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = {"weights": "out/weights.safetensors", "card": "out/card.json"}

    def make(entry):
        # As in a job card: plain values, keys in alphabetical order.
        file = f"zoos/{entry.file}"
        described = {"entry": as_tree(entry), "training": None, "seed": None, "file": file, "file_sha256": artifacts.sha256(file)}
        return Job("teacher", {"teacher": "t"}, {"teachers.t": described}, "", {}, outputs)

    return make


def test_a_foreign_file_becomes_a_teacher(tmp_path, job):
    network = empty_network(ENTRY, 2, seed=3).eval()
    state = {name.removeprefix("backbone.").replace("head", "linear"): value for name, value in network.state_dict().items()}
    (tmp_path / "zoos").mkdir()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "zoos" / "w.pth")
    stage.run(job(ENTRY))
    teacher = read_teacher(tmp_path / "out" / "weights.safetensors", tmp_path / "out" / "card.json")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(teacher.network(images), network(images))
    card = artifacts.read_json("out/card.json")
    assert (card["source"], card["licence"], card["sha256"]) == ("w.pth", "MIT", artifacts.sha256("zoos/w.pth"))


def test_a_file_that_does_not_match_leaves_no_output(tmp_path, job):
    (tmp_path / "zoos").mkdir()
    torch.save({"a": torch.ones(1)}, tmp_path / "zoos" / "w.pth")
    with pytest.raises(UserError, match="missing"):
        stage.run(job(ENTRY))
    assert not (tmp_path / "out").exists()


def test_a_file_that_changed_after_the_start_of_the_run_is_refused(tmp_path, job):
    (tmp_path / "zoos").mkdir()
    torch.save(empty_network(ENTRY, 2).state_dict(), tmp_path / "zoos" / "w.pth")
    planned = job(ENTRY)
    torch.save(empty_network(ENTRY, 2, seed=1).state_dict(), tmp_path / "zoos" / "w.pth")
    with pytest.raises(UserError, match=r"zoos/w.pth: its content changed after the run started; start the run again"):
        stage.run(planned)
    assert not (tmp_path / "out").exists()
