"""Tests of the NAS ranking study on a small table and small classifiers."""

import itertools
import json
from pathlib import Path

import nas_ranking
import nas_ranking_table
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from datafree.config import ALGORITHM_TYPES, PROXIES, as_tree, typed
from datafree.errors import UserError
from datafree.nas.search_result import SearchResult
from datafree.nas.spaces.nasbench201.genotype import OPERATIONS
from datafree.nas.spaces.nasbench201.space import NasBench201Space

FOLDER = Path(__file__).parents[2] / "benchmarks"

CLASSES = ["ant", "bee", "cat"]
STUDY = {
    "teacher": "net-0", "channels": 4, "cells": 1, "architectures": 6, "images_per_class": 6,
    "recovery": {"method": "generator", "initialisation": "random", "steps": 2, "latent": 8, "width": 8},
    "inversion": {"auxiliary_teachers": 0},
    "supernet": {"supernet_steps": 3, "batch_size": 8, "learning_rate": 0.1, "validation": 0.2},
    "zero_cost": ["macs", "az_synflow"], "zero_cost_batch": 4,
    "arms": {
        "soft": {"data": "recovered", "signal": "one"},
        "one_hot": {"data": "recovered", "signal": "hard"},
        "many": {"data": "noise", "signal": "many"},
        "real": {"data": "real", "signal": "one"},
        "prefiltered": {
            "data": "recovered", "signal": "one", "supernet": {"prefilter": 5, "prefilter_share": 0.4, "prior": "az_synflow"},
            "recovery": {"method": "pixels", "steps": 2},
        },
    },
    "searches": {"spos": {"arm": "soft", "method": "spos", "population": 2, "generations": 1, "parents": 1}},
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory, publish) -> Path:
    root = tmp_path_factory.mktemp("ranking")
    publish(root, CLASSES, count=2, per_class=8)
    ops = np.array(list(itertools.product(range(5), repeat=6)), dtype=np.uint8)[::100]
    accuracy = np.linspace(10, 94, len(ops))
    np.savez(root / "table.npz", ops=ops, op_name=np.array(OPERATIONS), test_acc_cifar10=accuracy)
    return root


def run(places: Path, output: Path, *more: str, study=STUDY, images: bool = True) -> dict:
    output.mkdir(parents=True, exist_ok=True)
    (output / "study.yaml").write_text(yaml.safe_dump(study))
    given = ["--table", places / "table.npz", "--manifest", places / "zoo.yaml", "--checkpoints", places / "files"]
    given += ["--images", places / "images"] if images else []
    nas_ranking.main([str(argument) for argument in [*given, "--output", output / "out", "--study", output / "study.yaml", *more]])
    return json.loads((output / "out" / "results.json").read_text())


def test_a_study_ranks_by_every_arm_and_resumes(places, tmp_path):
    first = run(places, tmp_path, "--seeds", "0", "--only", "soft", "macs")
    assert set(first["arms"]) == {"soft/0"}
    assert len(first["architectures"]) == 6
    results = run(places, tmp_path, "--seeds", "0")
    assert results["arms"]["soft/0"] == first["arms"]["soft/0"]  # times included: nothing was computed again
    assert set(results["arms"]) == {f"{arm}/0" for arm in STUDY["arms"]}
    assert set(results["zero_cost"]) == {"macs/0", "az_synflow/0"}
    assert len(list((tmp_path / "out" / "pools").glob("*.safetensors"))) == 2  # soft and one_hot share their images
    assert not list((tmp_path / "out").rglob("*.pt"))
    for entry in [*results["arms"].values(), *results["zero_cost"].values()]:
        assert all(-1 <= entry[key] <= 1 for key in ("tau", "tau_top", "rho"))
        assert entry["pick"] in {cell["accuracy"] for cell in results["architectures"]}
    assert len(results["arms"]["soft/0"]["scores"]["kl"]) == 6
    search = results["searches"]["spos/0"]
    assert search["scored"] == 2
    assert search["accuracy"] is None or 10 <= search["accuracy"] <= 94
    assert search["known"] is False or search["accuracy"] is not None
    with Image.open(tmp_path / "out" / "ranking.png") as picture:
        assert picture.size == (1536, 696)  # two rows of panels
    lines = (tmp_path / "out" / "table.md").read_text()
    with_prior = [f"{arm} with az_synflow" for arm in STUDY["arms"]]
    assert all(f"| {name} |" in lines for name in (*STUDY["arms"], *with_prior, "macs", "az_synflow", "spos"))


def test_supernet_and_prior_have_equal_weight_in_the_mean_rank():
    cells = [{"genotype": str(number), "accuracy": float(number)} for number in range(4)]
    prior = [0.3, 0.1, 0.9, 0.8]  # ranks 2, 1, 4, 3
    kl = [-0.4, -0.1, -0.3, -0.2]  # ranks 1, 4, 2, 3
    arm = {"scores": {"kl": kl}, "cpu_seconds": 5.0}
    results = {
        "architectures": cells,
        "arms": {"a/0": arm, "a/1": arm, "b/0": arm},
        "zero_cost": {"az_synflow/0": {"scores": prior, "cpu_seconds": 2.0}},
    }
    (entry,) = nas_ranking_table._with_prior(results, "a")  # the second seed has no proxy scores
    assert entry == {**nas_ranking_table.rank_correlation([2 + 1, 1 + 4, 4 + 2, 3 + 3], [0.0, 1.0, 2.0, 3.0]), "cpu_seconds": 7.0}


def test_rank_correlations():
    truth = [float(value) for value in range(20)]
    same = nas_ranking_table.rank_correlation(truth, truth)
    assert (same["tau"], same["tau_top"], same["rho"], same["pick"], same["regret"]) == pytest.approx((1, 1, 1, 19, 0))
    opposite = nas_ranking_table.rank_correlation([-value for value in truth], truth)
    assert (opposite["tau"], opposite["rho"], opposite["pick"], opposite["regret"]) == pytest.approx((-1, -1, 0, 19))
    # Correct except for the four best, in reverse order: 6 of 190 pairs disagree.
    mixed = nas_ranking_table.rank_correlation([*truth[:16], *truth[:15:-1]], truth)
    assert mixed["tau"] == pytest.approx(1 - 2 * 6 / 190)
    assert mixed["tau_top"] == pytest.approx(-1)
    assert nas_ranking_table.rank_correlation([0.0] * 20, truth)["tau"] == 0


def test_mistakes_are_one_line(places, tmp_path):
    with pytest.raises(UserError, match="--images: not given, but arm real searches on real images"):
        run(places, tmp_path / "a", "--seeds", "0", "--only", "real", images=False)
    run(places, tmp_path / "a", "--seeds", "0", "--only", "macs")
    with pytest.raises(UserError, match="give another --output"):
        run(places, tmp_path / "a", "--seeds", "0", study={**STUDY, "architectures": 5})
    with pytest.raises(UserError, match="teacher: got 'net-9'; the manifest has net-0, net-1"):
        run(places, tmp_path / "b", study={**STUDY, "teacher": "net-9"})
    for key in ("data", "signal"):
        with pytest.raises(UserError, match=f"arms.soft.{key}: got 'loud'; allowed: "):
            run(places, tmp_path / "c", study={**STUDY, "arms": {"soft": {**STUDY["arms"]["soft"], key: "loud"}}})
    with pytest.raises(UserError, match=r"expected arrays ops, op_name and other .*name another --table"):
        run(places, tmp_path / "d", "--accuracy", "other")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("nas_ranking*.yaml")), ids=lambda path: path.stem)
def test_the_included_studies_are_valid(path):
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    arms = {name: nas_ranking.Arm.read(name, arm, spec) for name, arm in spec["arms"].items()}
    assert set(spec["zero_cost"]) <= set(PROXIES)
    assert {search["arm"] for search in spec["searches"].values()} <= set(arms)
    for name, search in spec["searches"].items():
        changes = {key: value for key, value in search.items() if key != "arm"}
        kind = ALGORITHM_TYPES[search["method"]]
        assert typed(kind, as_tree(kind()) | changes).method == search["method"], name


def test_the_reduced_study_has_every_kind_of_images_and_signal():
    spec = yaml.safe_load((FOLDER / "nas_ranking.yaml").read_text(encoding="utf-8"))
    arms = {name: nas_ranking.Arm.read(name, arm, spec) for name, arm in spec["arms"].items()}
    assert arms["soft"].images_key == arms["one_hot"].images_key != arms["calibrated"].images_key
    assert {arm.data for arm in arms.values()} == set(nas_ranking.DATA)
    assert {arm.signal for arm in arms.values()} == set(nas_ranking.SIGNALS)


@pytest.mark.parametrize(("best", "accuracy", "known"), [("nor_conv_3x3", 90.0, True), ("nor_conv_1x1", 80.0, False)])
def test_the_accuracy_of_a_cell_that_is_not_in_the_table_is_that_of_the_next_best_in_it(monkeypatch, tmp_path, best, accuracy, known):
    """Three cells are scored: conv3x3, conv1x1, skip; the table has the first and the last, and the last scores higher."""
    cells = {name: (name,) * 6 for name in ("nor_conv_3x3", "nor_conv_1x1", "skip_connect")}
    measures = {cells["nor_conv_3x3"]: {"kl": 3.0}, cells["nor_conv_1x1"]: {"kl": 2.0}, cells["skip_connect"]: {"kl": 1.0}}
    monkeypatch.setattr(nas_ranking, "ALGORITHMS", {"spos": lambda *given: SearchResult(cells[best], measures, [])})
    truth = {cells["nor_conv_3x3"]: 90.0, cells["skip_connect"]: 80.0}
    space = NasBench201Space(4, 1, 16)
    empty = {"arms": {}, "zero_cost": {}, "searches": {}}
    study = nas_ranking.Study(space, truth, [], None, [], None, {}, tmp_path, torch.device("cpu"), empty)
    monkeypatch.setattr(study, "pools", lambda arm, seed: None)
    study.search("mine", {"arm": "a", "method": "spos"}, {"a": nas_ranking.Arm("a", "noise", "one", None, {})}, 0)
    entry = empty["searches"]["mine/0"]
    assert (entry["genotype"], entry["accuracy"], entry["known"]) == (space.encode(cells[best]), accuracy, known)
