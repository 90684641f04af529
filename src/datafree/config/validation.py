"""Reading and validating configuration: merge YAML files over the defaults, coerce types, refuse what cannot work.

Errors are one line with the dotted key, the value that came and what is allowed. Nothing heavy is imported: Snakemake reads this on
every start.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import typing
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from datafree.config.algorithms import ALGORITHM_BOUNDS, ALGORITHM_TYPES, COSTS, PROXIES, SPACES
from datafree.config.arms import ARM_BOUNDS, ARM_TYPES, AdaptedPart
from datafree.config.schema import (
    BACKBONES,
    BOUNDS,
    CLASSIFIERS,
    INFERENCE,
    INVERSION_TYPES,
    ORACLES,
    WITH_GENOTYPE,
    BackboneConfig,
    Config,
    GeneratorInversion,
    Source,
    backbone_family,
    starts_from_meta,
)
from datafree.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]+)?")
# Mappings from a name to a method's settings, whose type the member's `method` decides.
FAMILIES = {("inversion", "methods"): INVERSION_TYPES, ("meta", "arms"): ARM_TYPES, ("nas", "algorithms"): ALGORITHM_TYPES}
# Names of other rows in the tables that an arm or a method would share.
TAKEN = {"inversion.methods": ("real",), "meta.arms": ("pixels", "random", "split"), "nas.algorithms": ()}


def load(*paths: str | Path) -> Config:
    """Read YAML files in order, later over earlier, over the defaults.

    Raises:
        UserError: a file is missing or not YAML, or what ``resolve`` refuses.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot read the configuration: {error.strerror}") from None
        except Exception as error:  # PyYAML lets other errors through, such as a ValueError for the date 2020-13-45
            raise UserError(f"{path}: not valid YAML: {error}") from None
        if tree is not None and not isinstance(tree, dict):
            raise UserError(f"{path}: expected a mapping of sections, got {type(tree).__name__}")
        merged = merge(merged, tree or {})
    return resolve(merged)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """A new tree with the mappings of ``over`` laid over those of ``base``, key by key."""
    both = {k: merge(base[k], v) for k, v in over.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **over, **both}


def resolve(tree: dict[str, Any]) -> Config:
    """Coerce and check a plain tree; a method, arm or algorithm set to null is dropped.

    Raises:
        UserError: unknown key, wrong type, value out of bounds, or an impossible combination.
    """
    tree = _without_null_arms(tree)
    members = {path: _typed_family(tree, path, types) for path, types in FAMILIES.items()}
    plain = dict(tree)
    for section, family in FAMILIES:
        if isinstance(tree.get(section), dict):
            plain[section] = {key: value for key, value in tree[section].items() if key != family}
    config = _typed(Config, plain, "")
    for (section, family), typed_members in members.items():
        setattr(getattr(config, section), family, typed_members)
    _check_bounds(config)
    _check_combinations(config)
    return config


def as_tree(config: Any) -> Any:
    """Plain dicts, lists and scalars; enums by value. What is hashed, logged and printed."""
    if isinstance(config, Enum):
        return config.value
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: as_tree(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {str(key): as_tree(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [as_tree(value) for value in config]
    return config


def select(config: Config, *keys: str) -> dict[str, Any]:
    """The named parts of a configuration as a plain mapping from dotted key to value: what one job reads."""
    chosen = {}
    for key in keys:
        value: Any = config
        for part in key.split("."):
            value = value[part] if isinstance(value, dict) else getattr(value, part)
        chosen[key] = as_tree(value)
    return chosen


def typed(kind: type, tree: dict[str, Any]) -> Any:
    """Back from a plain tree to the dataclass ``kind``, for stages that read a job's configuration."""
    return _typed(kind, tree, "")


def _without_null_arms(tree: dict[str, Any]) -> dict[str, Any]:
    tree = dict(tree)
    for section, family in FAMILIES:
        if isinstance(tree.get(section), dict) and isinstance(tree[section].get(family), dict):
            kept = {name: spec for name, spec in tree[section][family].items() if spec is not None}
            tree[section] = {**tree[section], family: kept}
    return tree


def _typed_family(tree: dict[str, Any], path: tuple[str, str], types: dict[str, type]) -> dict[str, Any]:
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
        resolved[name] = _typed(types[method], {**spec, "method": method}, dotted)
    return resolved


def _typed(kind: type, tree: Any, dotted: str) -> Any:
    _refuse_unknown(kind, tree, dotted)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.create(tree))
        assert isinstance(merged, DictConfig)
        return OmegaConf.to_object(merged)
    except Exception as error:  # OmegaConf lets other errors through, such as an OverflowError
        key = ".".join(part for part in (dotted, getattr(error, "full_key", None) or "") if part)
        reason = str(error).partition("\n")[0]
        raise UserError(f"{key or 'configuration'}: {reason}") from None


def _refuse_unknown(kind: Any, tree: Any, dotted: str) -> None:
    if not isinstance(tree, dict):
        raise UserError(f"{dotted or 'configuration'}: expected a mapping, got {tree!r}")
    hints = typing.get_type_hints(kind)
    for key, value in tree.items():
        here = f"{dotted}.{key}" if dotted else str(key)
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"allowed: {', '.join(hints)}"
            raise UserError(f"{here}: unknown key; {hint}")
        inner = hints[key]
        if dataclasses.is_dataclass(inner):
            _refuse_unknown(inner, value, here)
        elif typing.get_origin(inner) is list and not _is_plain_list(value):
            raise UserError(f"{here}: expected a plain list, got {value!r}")


def _is_plain_list(value: Any) -> bool:
    return isinstance(value, list) and not any(isinstance(entry, (list, dict)) for entry in value)


def _check_bounds(config: Config) -> None:
    for dotted, value in _leaves(as_tree(config), ()):
        for pattern, (low, high) in (BOUNDS | ARM_BOUNDS | ALGORITHM_BOUNDS).items():
            parts = pattern.split(".")
            if len(parts) != len(dotted) or any(p not in ("*", d) for p, d in zip(parts, dotted, strict=True)):
                continue
            infinite = isinstance(value, float) and not math.isfinite(value)
            if infinite or (low is not None and value < low) or (high is not None and value > high):
                allowed = f"at least {low}" if high is None else f"between {low} and {high}"
                raise UserError(f"{'.'.join(dotted)}: got {value}; allowed: {allowed}")


def _leaves(tree: Any, path: tuple[str, ...]):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _leaves(value, (*path, str(index)))
    else:
        yield path, tree


def _check_combinations(config: Config) -> None:
    if not DEVICE.fullmatch(config.device):
        raise UserError(f"device: got {config.device!r}; allowed: auto, cpu, cuda, cuda:N")
    if config.data.source is Source.folder and not config.data.folder:
        raise UserError("data.folder: empty, but data.source is `folder`; name the folder that holds train/, validation/ and test/")
    if config.evaluation.split not in ("validation", "test"):
        raise UserError(f"evaluation.split: got {config.evaluation.split!r}; allowed: validation, test")
    if not config.evaluation.shots:
        raise UserError("evaluation.shots: empty; name at least one number of support images per class, such as [1, 5]")
    if config.evaluation.by_domain and config.data.source is not Source.folder:
        raise UserError("evaluation.by_domain: true, but the embedded data has one domain; set data.source to folder, or this to false")
    for key, allowed in (("inference", INFERENCE), ("classifiers", CLASSIFIERS), ("oracles", ORACLES)):
        chosen = getattr(config.evaluation, key)
        few = "any" if key == "oracles" else "at least one"
        if (not chosen and key != "oracles") or len(set(chosen)) != len(chosen) or not set(chosen) <= set(allowed):
            raise UserError(f"evaluation.{key}: got {chosen}; allowed: {few} of {', '.join(allowed)}, each once")
    for family, members in (
        ("inversion.methods", config.inversion.methods),
        ("meta.arms", config.meta.arms),
        ("nas.algorithms", config.nas.algorithms),
    ):
        for name in members:
            if not NAME.fullmatch(name):
                raise UserError(f"{family}.{name}: a name may hold letters, digits, `_` and `-` only; it becomes a folder")
            if name in TAKEN[family]:
                raise UserError(f"{family}.{name}: this name is taken by a row of the results; choose another")
    if not config.inversion.methods:
        raise UserError("inversion.methods: empty; name at least one method, such as `five: {method: generator, steps: 5}`")
    for name in config.inversion.methods:
        if name.startswith("meta_generator"):
            raise UserError(f"inversion.methods.{name}: this name is taken by the generator itself; choose another")
    _check_latents(config)
    if not config.meta.seeds or len(set(config.meta.seeds)) != len(config.meta.seeds):
        raise UserError(f"meta.seeds: got {config.meta.seeds}; allowed: at least one seed, each once")
    for family, members in (("meta.arms", config.meta.arms), ("nas.algorithms", config.nas.algorithms)):
        for name, arm in members.items():
            if arm.inversion not in config.inversion.methods:
                known = ", ".join(config.inversion.methods)
                raise UserError(f"{family}.{name}.inversion: got {arm.inversion!r}; allowed: {known}")
    _check_backbone("evaluation.oracle_backbone", config.evaluation.oracle_backbone)
    if config.evaluation.oracle_backbone.genotype == "searched":
        raise UserError("evaluation.oracle_backbone.genotype: got 'searched'; allowed: a cell; `searched` is one of evaluation.oracles")
    if "searched" in config.evaluation.oracles and not config.nas.algorithms:
        raise UserError("evaluation.oracles: `searched`, but nas.algorithms is empty; add one, or take it out")
    for name, arm in config.meta.arms.items():
        _check_backbone(f"meta.arms.{name}.backbone", arm.backbone)
        if arm.backbone.genotype == "searched" and not config.nas.algorithms:
            raise UserError(f"meta.arms.{name}.backbone.genotype: `searched`, but nas.algorithms is empty; add one, or a genotype")
        if arm.method == "bell" and not arm.cross_task and config.tasks.mixed == 1:
            raise UserError(f"meta.arms.{name}.cross_task: false, but no task is of one teacher; set tasks.mixed below 1")
        if arm.method == "igr" and arm.groups and config.tasks.mixed == 1:
            raise UserError(f"meta.arms.{name}.groups: got {arm.groups}, but no task is of one teacher; set tasks.mixed below 1")
        part = {"maml": AdaptedPart.network, "anil": AdaptedPart.head}.get(arm.method)
        if part is not None and arm.adaptation.part is not part:
            raise UserError(f"meta.arms.{name}.adaptation.part: got {arm.adaptation.part.value}; allowed: {part.value}, as in {arm.method}")
    _check_algorithms(config)
    if config.data.source is Source.glyphs:
        _check_glyphs(config)


def _check_backbone(dotted: str, backbone: BackboneConfig) -> None:
    if backbone_family(backbone.name) not in BACKBONES:
        raise UserError(f"{dotted}.name: got {backbone.name!r}; allowed: {', '.join(BACKBONES)}")
    if backbone.name in WITH_GENOTYPE and not backbone.genotype:
        raise UserError(f"{dotted}.genotype: empty; give one, or `searched` for what the nas stage finds")


def _check_algorithms(config: Config) -> None:
    for name, algorithm in config.nas.algorithms.items():
        dotted = f"nas.algorithms.{name}"
        for key, allowed in (("space", SPACES), ("cost", COSTS), ("proxy", PROXIES)):
            if hasattr(algorithm, key) and getattr(algorithm, key) not in allowed:
                raise UserError(f"{dotted}.{key}: got {getattr(algorithm, key)!r}; allowed: {', '.join(allowed)}")
        if getattr(algorithm, "prior", "") not in ("", *PROXIES):
            raise UserError(f"{dotted}.prior: got {algorithm.prior!r}; allowed: empty, {', '.join(PROXIES)}")
        if getattr(algorithm, "prefilter", 0) and not algorithm.prior:
            raise UserError(f"{dotted}.prior: empty, but `prefilter` is {algorithm.prefilter}; name a zero-cost proxy, such as az_synflow")
        if hasattr(algorithm, "parents") and algorithm.parents > algorithm.population:
            raise UserError(f"{dotted}.parents: got {algorithm.parents}; allowed: at most the population, {algorithm.population}")


def _check_latents(config: Config) -> None:
    """Without the label as an input, only optimised latents can tell the classes apart."""
    shared = config.inversion.meta_generator
    if not shared.conditional and not shared.latent_learning_rate:
        raise UserError("inversion.meta_generator.latent_learning_rate: got 0.0; allowed: above 0, as `conditional` is false")
    for name, method in config.inversion.methods.items():
        if not isinstance(method, GeneratorInversion):
            continue
        dotted = f"inversion.methods.{name}"
        conditional = shared.conditional if starts_from_meta(method) else method.conditional
        if not conditional and not method.latent_learning_rate:
            raise UserError(f"{dotted}.latent_learning_rate: got 0.0; allowed: above 0, as its generator is not conditional")
        if method.latent_learning_rate and method.calibration_rounds > 1:
            rounds = method.calibration_rounds
            raise UserError(f"{dotted}.calibration_rounds: got {rounds}; allowed: 1, as latent_learning_rate is above 0")


def _check_glyphs(config: Config) -> None:
    glyphs, evaluation = config.data.glyphs, config.evaluation
    classes = getattr(glyphs.classes, evaluation.split)
    images = getattr(glyphs.images_per_class, evaluation.split)
    if evaluation.way > classes:
        raise UserError(f"evaluation.way: got {evaluation.way}; allowed: at most data.glyphs.classes.{evaluation.split} = {classes}")
    if max(evaluation.shots) + evaluation.query > images:
        raise UserError(
            f"evaluation.query: {evaluation.query} and {max(evaluation.shots)} shots need more than "
            f"data.glyphs.images_per_class.{evaluation.split} = {images}; lower one or raise the other"
        )
