"""Settings of the reference networks, and that no default of the code reaches a job."""

import ast
import dataclasses
import json
from pathlib import Path

import pytest

import datafree
from datafree import config as configuration
from datafree.config import ClassifierReference, DistillationArm, LearnerReference, ProtoNetArm, as_tree, references, resolve, typed
from datafree.errors import UserError
from datafree.zoo import manifest

STAGES = sorted((Path(datafree.__file__).parent / "stages").rglob("*.py"))
SETTINGS = {
    name
    for module in (configuration, manifest)
    for name, kind in vars(module).items()
    if dataclasses.is_dataclass(kind) and isinstance(kind, type)
}


def test_every_reference_is_complete_and_of_plain_values():
    trees = references(resolve({}))
    assert list(trees) == ["judge", "oracle", "searched", "protonet", "maml"]
    for name, tree in trees.items():
        assert json.loads(json.dumps(tree)) == tree
        kind = LearnerReference if name in ("protonet", "maml") else ClassifierReference
        assert as_tree(typed(kind, tree)) == tree


def test_references_follow_the_configuration():
    given = {"tasks": {"way": 4}, "zoo": {"training": {"held_out": 0.3}}}
    trees = references(resolve({**given, "evaluation": {"oracle_steps": 7, "oracle_backbone": {"width": 20}}}))
    assert {tree["held_out"] for tree in trees.values()} == {0.3}
    assert [trees[name]["steps"] for name in ("judge", "oracle", "searched")] == [7, 7, 7]
    assert [trees[name]["arm"]["steps"] for name in ("protonet", "maml")] == [7, 7]
    assert trees["oracle"]["backbone"]["width"] == trees["protonet"]["arm"]["backbone"]["width"] == 20
    assert trees["judge"]["backbone"]["name"] == "resnet8"
    assert trees["searched"]["backbone"] is None
    assert trees["maml"]["tasks"]["way"] == 4
    assert trees["maml"]["arm"]["adaptation"] == {"part": "network", "steps": 10, "learning_rate": 0.05}


def test_references_are_trained_on_as_many_images_as_the_longest_arm_unless_their_steps_are_given():
    arms = {
        "bell": {"steps": 50, "tasks_per_step": 4},
        "joint": {"method": "igr", "steps": 60, "tasks_per_step": 4},
        "distillation": {"steps": 100, "batch_size": 64},
        "dro": {"method": "dro", "steps": 100000},
    }
    task = 5 * (1 + 7)

    def steps(**evaluation):
        tasks = {"way": 5, "shot": 1, "query": 7}
        trees = references(resolve({"meta": {"arms": arms}, "tasks": tasks, "evaluation": evaluation}))
        classifiers = {trees[name]["steps"] for name in ("judge", "oracle", "searched")}
        return classifiers, trees["protonet"]["arm"]["steps"], trees["maml"]["arm"]["steps"]

    images = 60 * 4 * task
    assert steps() == ({-(-images // 128)}, images // task, images // (2 * task))
    arms["distillation"] = {"steps": 700, "batch_size": 128}
    images = 700 * 128
    assert steps() == ({700}, -(-images // task), -(-images // (2 * task)))
    assert steps(oracle_steps=9) == ({9}, 9, 9)
    arms.clear()
    assert steps()[0] == {DistillationArm().steps * DistillationArm().batch_size // 128}


@pytest.mark.parametrize("path", [("steps",), ("backbone", "width"), ("adaptation",), ("adaptation", "part")])
def test_a_record_without_a_key_is_refused(path):
    tree = as_tree(ProtoNetArm())
    place = tree
    for part in path[:-1]:
        place = place[part]
    del place[path[-1]]
    with pytest.raises(UserError, match=rf"the key `{'.'.join(path)}` is missing, because another version wrote .*; rerun snakemake"):
        typed(ProtoNetArm, tree)


def test_keys_of_an_optional_section_are_needed_only_if_it_is_there():
    tree = references(resolve({}))["oracle"]
    assert typed(ClassifierReference, {**tree, "backbone": None}).backbone is None
    with pytest.raises(UserError, match=r"`backbone.width` is missing"):
        typed(ClassifierReference, {**tree, "backbone": {"name": "conv4"}})


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_a_stage_makes_settings_only_from_its_job(path):
    """Calls such as ``BackboneConfig("resnet8")`` would use values that no record holds; ``typed`` takes all of them from the job."""
    imported = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("datafree.config", "datafree.zoo.manifest"))
        for alias in node.names
    }
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = node.func.value if isinstance(node.func, ast.Subscript) else node.func
            name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
            assert name not in imported & (SETTINGS | {"ARM_TYPES", "INVERSION_TYPES", "ALGORITHM_TYPES"}), f"{path}:{node.lineno}: {name}"
