"""Tests of the stages ``search`` and ``retrain`` on tiny pools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from PIL import Image

from datafree import artifacts
from datafree.checkpoints import Checkpoint
from datafree.config import ALGORITHM_TYPES, SposConfig, as_tree
from datafree.errors import UserError
from datafree.nas.search_result import SearchResult
from datafree.nas.spaces.nasbench201.space import NasBench201Space
from datafree.stages import retrain, search
from datafree.stages.files.networks import read_backbone
from datafree.stages.files.searches import joined_pools
from datafree.workflow.job_checkpoints import checkpoint_of
from datafree.workflow.provenance import Job
from tests.index_files import write_index

SEARCH = {"architecture": "json", "drawing": "png", "pareto": "png", "history": "csv", "candidates": "csv", "metrics": "json"}
RETRAIN = {"network": "safetensors", "card": "json", "history": "csv", "metrics": "json"}


class Workspace:
    """``inputs``: those of the jobs; the indexes are written anew, from the files as they are."""

    reliability = "tasks/reliability.json"

    def __init__(self, pools: list[str], cards: list[str]) -> None:
        self.pools, self.cards = pools, cards

    @property
    def inputs(self) -> dict[str, str]:
        indexes = {
            name: write_index(f"{name}.json", {str(number): [path] for number, path in enumerate(paths)})
            for name, paths in (("pools", self.pools), ("zoo", self.cards))
        }
        return {**indexes, "reliability": self.reliability}


@pytest.fixture
def workspace(tmp_path, monkeypatch, pools, teachers):
    """A project folder with the pools and cards of three teachers."""
    monkeypatch.chdir(tmp_path)
    pool_files, cards = [], []
    artifacts.write_json("tasks/reliability.json", {"teachers": [{"weight": 1.0} for _ in teachers]})
    for pool, teacher in zip(pools, teachers, strict=True):
        images, card = f"inversion/{teacher.name}/images.safetensors", f"zoo/{teacher.name}/card.json"
        artifacts.write_tensors(images, {"images": pool.images, "labels": pool.labels, "soft_labels": pool.soft_labels})
        mean, std = ([value.item() for value in tensor.flatten()] for tensor in (teacher.normalise.mean, teacher.normalise.std))
        artifacts.write_json(card, {"classes": list(pool.classes), "mean": mean, "std": std})
        pool_files.append(images)
        cards.append(card)
    return Workspace(pool_files, cards)


@pytest.fixture
def new_job(precision) -> Callable[..., Job]:
    def make(stage: str, inputs, config, outputs, folder: str = "nas/mine", seed: int = 0) -> Job:
        settings = {"seed": seed, "device": "cpu", "precision": precision, "nas.algorithms.mine": as_tree(config)}
        paths = {name: f"{folder}/{stage}-{name}.{suffix}" for name, suffix in outputs.items()}
        return Job(stage, {"algorithm": "mine"}, settings, "code", inputs, paths)

    return make


@pytest.fixture
def small(small):
    """The same search at 32 pixels."""
    return replace(small, max_macs=1_000_000)


@pytest.fixture
def eager_checkpoints(monkeypatch):
    """Checkpoints are written at every step; returns their paths."""
    written = set()
    original = checkpoint_of

    def of_job(job):
        checkpoint = original(job)
        written.add(checkpoint.path)
        return Checkpoint(checkpoint.path, checkpoint.fingerprint, seconds_between=0)

    for module in (search, retrain):
        monkeypatch.setattr(module, "checkpoint_of", of_job)
    return written


def test_search_then_retrain_writes_a_usable_backbone(new_job, workspace, small, tmp_path, eager_checkpoints):
    job = new_job("search", workspace.inputs, small, SEARCH)
    search.run(job)
    architecture = artifacts.read_json(job.output("architecture"))
    space = NasBench201Space(4, 1, 32)
    cell = space.decode(architecture["genotype"])
    assert architecture["macs"] == space.macs(cell) <= small.max_macs
    assert architecture["parameters"] == space.parameters(cell)
    assert (architecture["algorithm"], architecture["space"], architecture["candidates_scored"]) == ("mine", "nasbench201", 12)
    rows = artifacts.read_history(job.output("candidates"))
    assert len(rows) == 12
    cells = [tuple(space.choices[slot][int(row[f"choice_{slot}"])] for slot in range(6)) for row in rows]
    assert [row["macs"] for row in rows] == [space.macs(genotype) for genotype in cells]
    assert architecture["kl"] == pytest.approx(min(row["kl"] for row in rows), rel=1e-5)
    assert len(artifacts.read_history(job.output("history"))) == 3
    with Image.open(job.output("drawing")) as picture:
        assert picture.size[0] > 300

    again = new_job("retrain", {**workspace.inputs, "architecture": job.outputs["architecture"]}, small, RETRAIN)
    retrain.run(again)
    backbone, normalise = read_backbone(again.output("network"), again.output("card"))
    features = backbone.eval()(normalise(artifacts.read_tensors(workspace.pools[0])["images"]))
    assert features.shape == (24, 16)
    assert features.isfinite().all()
    card, metrics = artifacts.read_json(again.output("card")), artifacts.read_json(again.output("metrics"))
    assert (card["macs"], card["parameters"]) == (architecture["macs"], architecture["parameters"])
    assert 0 <= metrics["agreement"] <= 1
    assert metrics["held_out_images"] == 19
    assert len(eager_checkpoints) == 2
    # No other files remain: neither checkpoints nor partial files.
    outputs = {*job.outputs.values(), *again.outputs.values()}
    remaining = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert remaining == outputs | set(workspace.pools) | set(workspace.cards) | set(workspace.inputs.values())


def test_the_same_job_gives_the_same_bytes(new_job, workspace, small):
    first, second = (new_job("search", workspace.inputs, small, SEARCH, folder) for folder in ("a", "b"))
    search.run(first)
    search.run(second)
    for name in SEARCH:
        assert first.output(name).read_bytes() == second.output(name).read_bytes(), name


def test_a_limit_below_every_cell_names_the_key_of_this_algorithm(new_job, workspace, small):
    small.max_macs = 1000
    with pytest.raises(UserError, match="nas.algorithms.mine.max_macs: got 1000, but the cheapest architecture needs"):
        search.run(new_job("search", workspace.inputs, small, SEARCH))


def test_a_pool_whose_soft_labels_do_not_fit_its_card_is_refused(new_job, workspace, small):
    tensors = artifacts.read_tensors(workspace.pools[1])
    artifacts.write_tensors(workspace.pools[1], {**tensors, "soft_labels": torch.ones(32, 7).half()})
    with pytest.raises(UserError, match=r"recovered pool 2 of 3: expected soft labels \[32, 4\], got \[32, 7\]"):
        search.run(new_job("search", workspace.inputs, small, SEARCH))


def test_images_of_a_teacher_with_weight_zero_are_not_used(new_job, workspace, pools):
    job = new_job("search", workspace.inputs, SposConfig(), SEARCH)
    artifacts.write_json(workspace.reliability, {"teachers": [{"weight": 0.4}, {"weight": 0.0}, {"weight": 1.0}]})
    joined = joined_pools(job)
    assert joined.classes == (len(pools[0].classes), len(pools[2].classes))
    assert torch.equal(joined.images, torch.cat([pools[0].images, pools[2].images]))


@pytest.mark.parametrize(("method", "space"), [("random", "slim_resnet"), ("darts", "mbconv"), ("zero_cost", "darts")])
def test_every_kind_of_search_writes_the_same_files_and_a_backbone(new_job, workspace, method, space):
    config = ALGORITHM_TYPES[method](space=space, channels=4, batch_size=16, validation=0.2, retrain_steps=2)
    for name, value in {"supernet_steps": 2, "candidates": 2, "population": 2, "generations": 1, "max_macs": 0}.items():
        if hasattr(config, name):
            setattr(config, name, value)
    job = new_job("search", workspace.inputs, config, SEARCH)
    search.run(job)
    architecture = artifacts.read_json(job.output("architecture"))
    assert (architecture["space"], architecture["backbone"]) == (space, space)
    rows = artifacts.read_history(job.output("candidates"))
    assert len(rows) == architecture["candidates_scored"]
    assert ("score" if method == "zero_cost" else "kl") in rows[0]
    assert artifacts.read_history(job.output("history"))
    with Image.open(job.output("drawing")) as picture:
        assert picture.size[0] > 300
    again = new_job("retrain", {**workspace.inputs, "architecture": job.outputs["architecture"]}, config, RETRAIN)
    retrain.run(again)
    backbone, normalise = read_backbone(again.output("network"), again.output("card"))
    assert backbone.eval()(normalise(artifacts.read_tensors(workspace.pools[0])["images"])).isfinite().all()
    card = artifacts.read_json(again.output("card"))
    assert (card["macs"], card["parameters"]) == (architecture["macs"], architecture["parameters"])


def test_a_degenerate_result_is_reported(new_job, workspace, small, monkeypatch, capsys):
    collapsed = ("skip_connect",) * 6
    result = SearchResult(collapsed, {collapsed: {"agreement": 0.1, "kl": 2.0}}, [{"step": 1}])
    monkeypatch.setattr(search, "ALGORITHMS", {"spos": lambda *_: result})
    job = new_job("search", workspace.inputs, small, SEARCH)
    search.run(job)
    assert "warning: the result of mine is |skip_connect~0|" in capsys.readouterr().err
    assert artifacts.read_json(job.output("architecture"))["degenerate"] is True
    assert artifacts.read_json(job.output("metrics"))["degenerate"] == 1
