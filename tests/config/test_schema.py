"""The schema, the default file and the presets tell the same."""

import difflib
import functools
from pathlib import Path

import pytest
import yaml

from datafree.config import Config, as_tree, load, merge, resolve
from datafree.config.algorithms import ALGORITHM_BOUNDS, ALGORITHM_TYPES
from datafree.config.arms import ARM_BOUNDS, ARM_TYPES
from datafree.config.schema import BOUNDS, INVERSION_TYPES

PROJECT = Path(__file__).parents[2]
PARAMS = PROJECT / "params.yaml"
PRESETS = sorted((PROJECT / "presets").glob("*.yaml"))


def leaves(tree, path=()):
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    else:
        yield ".".join(path), tree


def as_lines(tree) -> list[str]:
    return yaml.safe_dump(tree).splitlines()


def test_params_yaml_holds_every_key_with_its_default():
    written = yaml.safe_load(PARAMS.read_text())
    difference = list(
        difflib.unified_diff(as_lines(as_tree(resolve({}))), as_lines(written), "the dataclasses", "params.yaml", lineterm="")
    )
    assert not difference, "\n".join(difference)


def test_params_yaml_resolves_to_the_defaults():
    assert load(PARAMS) == resolve({}) == load()


def test_a_resolved_configuration_resolves_to_itself():
    tree = as_tree(load(PARAMS))
    assert as_tree(resolve(tree)) == tree
    assert yaml.safe_load(yaml.safe_dump(tree)) == tree


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_lies_over_params_yaml(preset, presets_below):
    below = presets_below(preset)
    overlay = yaml.safe_load(preset.read_text())
    resolved = dict(leaves(as_tree(load(PARAMS, *below, preset))))
    for key, value in leaves(overlay):
        assert resolved.get(key) == value, key  # a member that is null is dropped
    merged = functools.reduce(merge, [yaml.safe_load(path.read_text()) for path in (PARAMS, *below, preset)])
    assert as_tree(load(PARAMS, *below, preset)) == as_tree(resolve(merged))


def test_the_presets_of_the_study_lie_over_each_other():
    names = ("cifar-fs", "cifar-fs-study", "cifar-fs-study-small")
    study = [PROJECT / "presets" / f"{name}.yaml" for name in names]
    full, small = load(PARAMS, *study[:2]), load(PARAMS, *study)
    assert set(small.meta.arms) <= set(full.meta.arms)
    assert all(small.meta.arms[name].steps <= full.meta.arms[name].steps for name in small.meta.arms)
    # What a table compares has one backbone, but for the rows that are about the backbone, and fusion, which has the teachers'.
    others = {"distillation_resnet10", "distillation_searched", "dro"}
    for config in (full, small):
        assert {name for name, arm in config.meta.arms.items() if arm.backbone != config.evaluation.oracle_backbone} <= others


def test_every_number_has_bounds_and_every_bound_a_number():
    tree = as_tree(resolve({}))
    tree["inversion"]["methods"] |= {name: as_tree(kind()) for name, kind in INVERSION_TYPES.items()}
    tree["meta"]["arms"] |= {name: as_tree(kind()) for name, kind in ARM_TYPES.items()}
    tree["nas"]["algorithms"] |= {name: as_tree(kind()) for name, kind in ALGORITHM_TYPES.items()}
    numbers = set()
    for key, value in leaves(tree):
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, int | float) and not isinstance(entry, bool):
                numbers.add(f"{key}.0" if isinstance(value, list) else key)

    def fits(pattern: str, key: str) -> bool:
        parts = list(zip(pattern.split("."), key.split("."), strict=False))
        return pattern.count(".") == key.count(".") and all(p in ("*", k) for p, k in parts)

    assert {key for key in numbers if not any(fits(pattern, key) for pattern in BOUNDS | ARM_BOUNDS | ALGORITHM_BOUNDS)} == set()
    assert {pattern for pattern in BOUNDS | ARM_BOUNDS | ALGORITHM_BOUNDS if not any(fits(pattern, key) for key in numbers)} == set()


def test_two_configurations_share_nothing():
    first = Config()
    first.meta.seeds.append(9)
    first.inversion.methods.clear()
    assert Config().meta.seeds == [0, 1, 2]
    assert Config().inversion.methods
