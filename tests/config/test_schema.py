"""The schema, params.yaml and the presets agree."""

import dataclasses
import functools
import re
import typing
from pathlib import Path

import pytest
import yaml

from datafree.config import AdaptationConfig, AdaptedPart, Config, Splits, as_tree, load, merge, resolve, text_nulls
from datafree.config.algorithms import ALGORITHM_BOUNDS, ALGORITHM_TYPES
from datafree.config.arms import ARM_BOUNDS, ARM_TYPES
from datafree.config.inversions import INVERSION_BOUNDS, INVERSION_TYPES
from datafree.config.schema import BOUNDS

ALL_BOUNDS = BOUNDS | INVERSION_BOUNDS | ARM_BOUNDS | ALGORITHM_BOUNDS
PROJECT = Path(__file__).parents[2]
PARAMS = PROJECT / "params.yaml"
PRESETS = sorted((PROJECT / "presets").glob("*.yaml"))


def leaves(tree, path=()):
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    else:
        yield ".".join(path), tree


# Keys that params.yaml leaves out, because they default to another key.
FILLED_IN = re.compile(r"meta\.arms\.\w+\.backbone\..*|evaluation\.oracle_backbone\..*")


def test_params_yaml_holds_every_key_with_its_default():
    written = dict(leaves(yaml.safe_load(PARAMS.read_text())))
    defaults = dict(leaves(as_tree(resolve({}))))
    assert written.pop("evaluation.oracle_backbone") == {}
    assert written.pop("evaluation.split") == "test"  # for the default study; the default of the schema is validation
    assert defaults.pop("evaluation.split") == "validation"
    assert written == {key: value for key, value in defaults.items() if not FILLED_IN.fullmatch(key)}


def test_params_yaml_resolves_to_the_defaults_but_for_the_split():
    assert as_tree(load(PARAMS)) == merge(as_tree(resolve({})), {"evaluation": {"split": "test"}})
    assert resolve({}) == load()


def test_every_preset_but_the_study_evaluates_on_the_validation_classes(presets_below):
    on_test = {preset.stem for preset in PRESETS if load(PARAMS, *presets_below(preset), preset).evaluation.split == "test"}
    assert on_test == {"cifar-fs-study"}
    lines = PARAMS.read_text().splitlines()
    assert sum(line.strip().startswith("split: test #") for line in lines) == 1


def test_a_resolved_configuration_resolves_to_itself():
    tree = as_tree(load(PARAMS))
    assert as_tree(resolve(tree)) == tree
    assert yaml.safe_load(yaml.safe_dump(tree)) == tree


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_overrides_params_yaml(preset, presets_below):
    below = presets_below(preset)
    overlay = yaml.safe_load(preset.read_text())
    resolved = dict(leaves(as_tree(load(PARAMS, *below, preset))))
    for key, value in leaves(overlay):
        assert resolved.get(key) == value, key  # an arm that is null is removed
    merged = functools.reduce(merge, [yaml.safe_load(path.read_text()) for path in (PARAMS, *below, preset)])
    assert as_tree(load(PARAMS, *below, preset)) == as_tree(resolve(merged))


def test_the_presets_of_the_study_build_on_each_other():
    names = ("cifar-fs", "cifar-fs-study", "cifar-fs-study-small")
    study = [PROJECT / "presets" / f"{name}.yaml" for name in names]
    full, small = load(PARAMS, *study[:2]), load(PARAMS, *study)
    assert set(small.meta.arms) <= set(full.meta.arms)
    assert all(small.meta.arms[name].steps <= full.meta.arms[name].steps for name in small.meta.arms)
    # All rows of a table have one backbone, except arms that compare backbones, and `dro`, which has the teachers'.
    others = {"distillation_resnet10", "distillation_searched", "dro"}
    for config in (full, small):
        assert {name for name, arm in config.meta.arms.items() if arm.backbone != config.evaluation.oracle_backbone} <= others


def numeric_keys(kind, prefix: str):
    """Dotted keys of every number in a schema; for a list of numbers that of its first element."""
    for name, hint in typing.get_type_hints(kind).items():
        options = set(typing.get_args(hint)) or {hint}
        if dataclasses.is_dataclass(hint):
            yield from numeric_keys(hint, f"{prefix}{name}.")
        elif options & {int, float}:
            yield f"{prefix}{name}.0" if typing.get_origin(hint) is list else f"{prefix}{name}"


def test_every_number_has_bounds_and_every_bound_a_number():
    numbers = set(numeric_keys(Config, ""))
    for family, kinds in (("inversion.methods", INVERSION_TYPES), ("meta.arms", ARM_TYPES), ("nas.algorithms", ALGORITHM_TYPES)):
        numbers |= {key for name, kind in kinds.items() for key in numeric_keys(kind, f"{family}.{name}.")}

    def fits(pattern: str, key: str) -> bool:
        parts = list(zip(pattern.split("."), key.split("."), strict=False))
        return pattern.count(".") == key.count(".") and all(p in ("*", k) for p, k in parts)

    assert {key for key in numbers if not any(fits(pattern, key) for pattern in ALL_BOUNDS)} == set()
    assert {pattern for pattern in ALL_BOUNDS if not any(fits(pattern, key) for key in numbers)} == set()


def test_two_configurations_share_no_mutable_value():
    first = Config()
    first.meta.seeds.append(9)
    first.inversion.methods.clear()
    assert Config().meta.seeds == [0, 1, 2]
    assert Config().inversion.methods


# Values that YAML and the command line give, and the setting that they become.
CONVERTED = [
    ("seed", "7", 7), ("zoo.limit", "null", None), ("inversion.shift", 3, 3), ("inversion.augmentation", 2, 2.0),
    ("inversion.augmentation", "1e-3", 0.001), ("meta.seeds", ["3", 4], [3, 4]), ("tracking.enabled", "off", False),
    ("tracking.enabled", "True", True), ("tracking.enabled", 1, True), ("tracking.experiment", 5, "5"),
]  # fmt: skip


@pytest.mark.parametrize(("dotted", "given", "expected"), CONVERTED)
def test_values_are_converted_to_the_type_of_their_key(dotted, given, expected):
    tree = text_nulls(functools.reduce(lambda value, part: {part: value}, reversed(dotted.split(".")), given))
    value = dict(leaves(as_tree(resolve(tree))))[dotted]
    assert (type(value), value) == (type(expected), expected)


def test_an_inner_mapping_changes_single_keys_of_the_default_of_its_field():
    config = resolve({"meta": {"arms": {"maml": {"adaptation": {"steps": 3}}}}, "data": {"glyphs": {"classes": {"train": 30}}}})
    assert config.meta.arms["maml"].adaptation == AdaptationConfig(AdaptedPart.network, 3, 0.05)
    assert config.data.glyphs.classes == Splits(30, 60, 120)
