"""Reading and validating the configuration: merge YAML files over the defaults, coerce types, check bounds and combinations.

Errors are one line with the dotted key, the value and what is allowed. This module does not import PyTorch, because Snakemake imports it
at every start.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from datafree.config.algorithms import ALGORITHM_BOUNDS, ALGORITHM_TYPES
from datafree.config.arms import ARM_BOUNDS, ARM_TYPES
from datafree.config.bounded import check_bounded, read_yaml
from datafree.config.coercion import coerce, type_hints
from datafree.config.combinations import check_combinations
from datafree.config.inversions import GENERATOR_SHAPE, INVERSION_BOUNDS, INVERSION_TYPES, GeneratorInversion, starts_from_meta
from datafree.config.renamed import matches
from datafree.config.schema import BOUNDS, SETS, BackboneConfig, Config
from datafree.errors import UserError

# Mappings from a user's name to settings, whose type the key `method` selects.
FAMILIES = {("inversion", "methods"): INVERSION_TYPES, ("meta", "arms"): ARM_TYPES, ("nas", "algorithms"): ALGORITHM_TYPES}


def load(*paths: str | Path) -> Config:
    """Merge YAML files over the defaults, later files over earlier ones.

    Raises:
        UserError: a file is missing, not YAML or beyond the bounds of ``datafree.config.bounded``, or any error of ``resolve``.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        tree = read_yaml(path, "configuration")
        if tree is not None and not isinstance(tree, dict):
            raise UserError(f"{path}: expected a mapping of sections, got {type(tree).__name__}")
        check_bounded(tree, str(path))
        merged = merge(merged, tree or {})
    return resolve(merged)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """A new tree in which values of ``over`` replace those of ``base``, key by key in nested mappings."""
    both = {k: merge(base[k], v) for k, v in over.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **over, **both}


def resolve(tree: dict[str, Any]) -> Config:
    """Coerce and check a plain tree; a method, arm or algorithm that is null is removed.

    Fills in the defaults that come from other keys: backbones from ``backbone``, the shape of a randomly initialised generator from
    ``inversion.meta_generator``. The result has one order, whatever the order of the tree: methods, arms and algorithms by name, seeds and
    shots ascending, other sets as in ``datafree.config.schema``. Idempotent: the resolved tree resolves to itself.

    Raises:
        UserError: unknown or renamed key, wrong type, value out of bounds, key without effect, or impossible combination.
    """
    check_bounded(tree)
    tree = _without_null_arms(tree)
    default = as_tree(coerce(BackboneConfig, {} if tree.get("backbone") is None else tree["backbone"], "backbone"))
    members = {path: _typed_family(tree, path, types, default) for path, types in FAMILIES.items()}
    plain = {**tree, "backbone": default}
    for section, family in FAMILIES:
        if isinstance(tree.get(section), dict):
            plain[section] = {key: value for key, value in tree[section].items() if key != family}
    evaluation = tree.get("evaluation", {})
    if isinstance(evaluation, dict):
        plain["evaluation"] = {**evaluation, "oracle_backbone": _over_default(default, evaluation.get("oracle_backbone"))}
    config = coerce(Config, plain)
    for (section, family), typed_members in members.items():
        setattr(getattr(config, section), family, typed_members)
    for method in config.inversion.methods.values():
        if isinstance(method, GeneratorInversion) and not starts_from_meta(method):
            for key in GENERATOR_SHAPE:
                if getattr(method, key) is None:
                    setattr(method, key, getattr(config.inversion.meta_generator, key))
    _check_bounds(config)
    check_combinations(config)
    _sort(config)
    return config


def _sort(config: Config) -> None:
    """Sort what is a set, because the order in which files name its members must make no difference."""
    config.meta.seeds.sort()
    config.evaluation.shots.sort()
    for key, members in SETS.items():
        getattr(config.evaluation, key).sort(key=members.index)


def as_tree(config: Any) -> Any:
    """The configuration as plain dicts, lists and scalars, enums by value, for records, logs and YAML."""
    if isinstance(config, Enum):
        return config.value
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: as_tree(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {str(key): as_tree(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [as_tree(value) for value in config]
    return config


def as_written(config: Config) -> dict[str, Any]:
    """The configuration as a file that resolves to it: like ``as_tree``, without what ``resolve`` fills in from other keys."""
    tree = as_tree(config)
    tree["evaluation"]["oracle_backbone"] = _differences(tree["backbone"], tree["evaluation"]["oracle_backbone"])
    for arm in tree["meta"]["arms"].values():
        arm["backbone"] = _differences(tree["backbone"], arm["backbone"])
    shape = tree["inversion"]["meta_generator"]
    for name, method in config.inversion.methods.items():
        if isinstance(method, GeneratorInversion):
            same = {key: None for key in GENERATOR_SHAPE if getattr(method, key) == shape[key]}
            tree["inversion"]["methods"][name] |= same
    return tree


def _differences(default: dict[str, Any], backbone: dict[str, Any]) -> dict[str, Any]:
    """The keys of a backbone by which ``_over_default`` gives it."""
    inherited = as_tree(BackboneConfig()) | _over_default(default, {"name": backbone["name"]}) | {"name": default["name"]}
    return {key: value for key, value in backbone.items() if value != inherited[key]}


def text_nulls(tree: Any) -> Any:
    """A tree whose texts ``null`` are None: Snakemake reads the mappings of ``--config`` with every value as text.

    Raises:
        UserError: a tree beyond the bounds of ``datafree.config.bounded``; Snakemake reads the files of ``--configfile`` without any.
    """
    check_bounded(tree)
    return _text_nulls(tree)


def _text_nulls(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _text_nulls(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_text_nulls(value) for value in tree]
    return None if tree == "null" else tree


def select(config: Config, *keys: str) -> dict[str, Any]:
    """The keys that one job reads, as a plain mapping from dotted key to value."""
    chosen = {}
    for key in keys:
        value: Any = config
        for part in key.split("."):
            value = value[part] if isinstance(value, dict) else getattr(value, part)
        chosen[key] = as_tree(value)
    return chosen


def typed(kind: type, tree: dict[str, Any]) -> Any:
    """The dataclass ``kind`` of a complete plain tree; inverse of ``as_tree``, for stages that read a job's configuration.

    Every key of the dataclass must be in the tree, so that all settings of a job are in its record and none is a default of the code.

    Raises:
        UserError: a key is missing or unknown, or a value has the wrong type.
    """
    return coerce(kind, tree, complete=True)


def _without_null_arms(tree: dict[str, Any]) -> dict[str, Any]:
    tree = dict(tree)
    for section, family in FAMILIES:
        if isinstance(tree.get(section), dict) and isinstance(tree[section].get(family), dict):
            kept = {name: spec for name, spec in tree[section][family].items() if spec is not None}
            tree[section] = {**tree[section], family: kept}
    return tree


def _over_default(default: dict[str, Any], over: Any) -> Any:
    """A backbone's settings over the default's; if it names another architecture, only the default's width applies."""
    if over is None:
        return dict(default)
    if not isinstance(over, dict):
        return over
    same = over.get("name", default["name"]) == default["name"]
    return {**(default if same else {"width": default["width"]}), **over}


def _typed_family(tree: dict[str, Any], path: tuple[str, str], types: dict[str, type], backbone: dict[str, Any]) -> dict[str, Any]:
    section, family = path
    default = getattr(getattr(Config(), section), family)
    members = (tree.get(section) or {}).get(family, default) if isinstance(tree.get(section), (dict, type(None))) else {}
    if not isinstance(members, dict):
        raise UserError(f"{section}.{family}: expected a mapping from name to settings, got {members!r}")
    resolved = {}
    for name, spec in members.items():
        dotted = f"{section}.{family}.{name}"
        if not isinstance(name, str) or not isinstance(spec, dict):
            raise UserError(f"{dotted}: expected a name and a mapping with a `method`, got {name!r}: {spec!r}")
        method = spec.get("method", name)
        if not isinstance(method, str) or method not in types:
            raise UserError(f"{dotted}.method: got {method!r}; allowed: {', '.join(types)}")
        spec = {**spec, "method": method}
        if path == ("meta", "arms"):
            spec["backbone"] = _over_default(backbone, spec.get("backbone"))
        resolved[name] = coerce(types[method], spec, dotted)
    return dict(sorted(resolved.items()))


def _check_bounds(config: Config) -> None:
    for dotted, value, nullable in _leaves(config, ()):
        for pattern, (low, high) in (BOUNDS | INVERSION_BOUNDS | ARM_BOUNDS | ALGORITHM_BOUNDS).items():
            if value is None or not matches(pattern.split("."), dotted):
                continue
            infinite = isinstance(value, float) and not math.isfinite(value)
            if infinite or (low is not None and value < low) or (high is not None and value > high):
                allowed = f"at least {low}" if high is None else f"between {low} and {high}"
                raise UserError(f"{'.'.join(dotted)}: got {value}; allowed: {allowed}{', or null for none' if nullable else ''}")


def _leaves(value: Any, path: tuple[str, ...], nullable: bool = False) -> Iterator[tuple[tuple[str, ...], Any, bool]]:
    """(dotted key, value, whether null is allowed) of every setting."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for key, kind in type_hints(type(value)).items():
            yield from _leaves(getattr(value, key), (*path, key), type(None) in typing.get_args(kind))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*path, str(index)))
    else:
        yield path, value, nullable
