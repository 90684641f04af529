"""Checks of settings against each other: impossible combinations, and keys without effect under another setting."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

from datafree.config.algorithms import COSTS, PROXIES, OneShotConfig, ProxylessConfig, ZeroCostConfig
from datafree.config.arms import AdaptedPart, BellArm, DistillationArm, Divergence, DroArm, IgrArm, MamlArm, Queried, Views
from datafree.config.inversions import GENERATOR_SHAPE, GeneratorInversion, LearnableSetInversion, OuterUpdate, starts_from_meta
from datafree.config.schema import SETS, Config, Source
from datafree.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]+)?")
# Names of rows and keys of the results, which an arm or a method must not have.
RESERVED = {"inversion.methods": ("real",), "meta.arms": ("pixels", "random", "split"), "nas.algorithms": ()}


def check_combinations(config: Config) -> None:
    """Check a typed configuration as a whole.

    Raises:
        UserError: an impossible combination, or a key without effect; names the key, the value and what is allowed.
    """
    if not DEVICE.fullmatch(config.device):
        raise UserError(f"device: got {config.device!r}; allowed: auto, cpu, cuda, cuda:N")
    if config.data.source is Source.folder and not config.data.folder:
        raise UserError("data.folder: empty, but data.source is `folder`; name the folder that holds train/, validation/ and test/")
    if config.evaluation.split not in ("validation", "test"):
        raise UserError(f"evaluation.split: got {config.evaluation.split!r}; allowed: validation, test")
    shots = config.evaluation.shots
    if not shots:
        raise UserError("evaluation.shots: empty; name at least one number of support images per class, such as [1, 5]")
    if len(set(shots)) != len(shots):
        raise UserError(f"evaluation.shots: got {shots}; allowed: each number once")
    if config.evaluation.by_domain and config.data.source is not Source.folder:
        raise UserError("evaluation.by_domain: true, but the embedded data has one domain; set data.source to `folder`, or remove this key")
    for key, allowed in SETS.items():
        chosen = getattr(config.evaluation, key)
        number = "any" if key == "oracles" else "at least one"
        if (not chosen and key != "oracles") or len(set(chosen)) != len(chosen) or not set(chosen) <= set(allowed):
            raise UserError(f"evaluation.{key}: got {chosen}; allowed: {number} of {', '.join(allowed)}, each once")
    for family, members in (
        ("inversion.methods", config.inversion.methods),
        ("meta.arms", config.meta.arms),
        ("nas.algorithms", config.nas.algorithms),
    ):
        for name in members:
            if not NAME.fullmatch(name):
                raise UserError(f"{family}.{name}: a name may hold letters, digits, `_` and `-` only; it becomes a folder")
            if name in RESERVED[family]:
                raise UserError(f"{family}.{name}: this name is taken by a row of the results; choose another")
    if not config.inversion.methods:
        raise UserError("inversion.methods: empty; name at least one method, such as `five: {method: generator, steps: 5}`")
    for name in config.inversion.methods:
        if name.startswith("meta_generator"):
            raise UserError(f"inversion.methods.{name}: this name is taken by the meta-generator; choose another")
    _check_latents(config)
    if not config.meta.seeds or len(set(config.meta.seeds)) != len(config.meta.seeds):
        raise UserError(f"meta.seeds: got {config.meta.seeds}; allowed: at least one seed, each once")
    for family, members in (("meta.arms", config.meta.arms), ("nas.algorithms", config.nas.algorithms)):
        for name, arm in members.items():
            if arm.inversion not in config.inversion.methods:
                known = ", ".join(config.inversion.methods)
                raise UserError(f"{family}.{name}.inversion: got {arm.inversion!r}; allowed: {known}")
    if config.evaluation.oracle_backbone.genotype == "searched":
        raise UserError(
            "evaluation.oracle_backbone.genotype: got 'searched', here or in `backbone`; an oracle of the search result is `searched` in "
            "evaluation.oracles; set evaluation.oracle_backbone to another network, such as {name: conv4_strided}"
        )
    if "searched" in config.evaluation.oracles and not config.nas.algorithms:
        raise UserError("evaluation.oracles: `searched`, but nas.algorithms is empty; add one, or remove `searched`")
    for name, arm in config.meta.arms.items():
        if arm.backbone.genotype == "searched" and not config.nas.algorithms:
            raise UserError(f"meta.arms.{name}.backbone.genotype: `searched`, but nas.algorithms is empty; add one, or a genotype")
        if arm.method == "bell" and arm.queried is Queried.own and config.tasks.mixed == 1:
            raise UserError(f"meta.arms.{name}.queried: own, but no task is of one teacher; set tasks.mixed below 1")
        if isinstance(arm, (DistillationArm, IgrArm)) and arm.queried is Queried.own:
            raise UserError(f"meta.arms.{name}.queried: got own; allowed: all, step")
        reads_mixed = isinstance(arm, DistillationArm) and arm.views is Views.reinforced and arm.mixup
        if reads_mixed and not config.reinforcement.mixed_views:
            raise UserError(f"meta.arms.{name}.mixup: true, but reinforcement.mixed_views is 0; raise it, or set mixup: false")
        if isinstance(arm, BellArm) and arm.one_head and arm.start:
            raise UserError(f"meta.arms.{name}.one_head: true, but a copy of a teacher has that teacher's head; set start: null")
        if isinstance(arm, IgrArm) and arm.groups and config.tasks.mixed == 1:
            raise UserError(f"meta.arms.{name}.groups: got {arm.groups}, but no task is of one teacher; set tasks.mixed below 1")
        part = {"maml": AdaptedPart.network, "anil": AdaptedPart.head}.get(arm.method)
        if part is not None and arm.adaptation.part is not part:
            raise UserError(f"meta.arms.{name}.adaptation.part: got {arm.adaptation.part.value}; allowed: {part.value}, as in {arm.method}")
    _check_algorithms(config)
    if config.data.source is Source.glyphs:
        _check_glyphs(config)
    for without_effect in _without_effect(config):
        refuse_changed(*without_effect)


def _check_algorithms(config: Config) -> None:
    if config.nas.searched not in (None, *config.nas.algorithms):
        raise UserError(f"nas.searched: got {config.nas.searched!r}; allowed: {', '.join(['null', *config.nas.algorithms])}")
    for name, algorithm in config.nas.algorithms.items():
        dotted = f"nas.algorithms.{name}"
        for key, allowed in (("cost", COSTS), ("proxy", PROXIES)):
            if hasattr(algorithm, key) and getattr(algorithm, key) not in allowed:
                raise UserError(f"{dotted}.{key}: got {getattr(algorithm, key)!r}; allowed: {', '.join(allowed)}")
        if getattr(algorithm, "prior", None) not in (None, *PROXIES):
            raise UserError(f"{dotted}.prior: got {algorithm.prior!r}; allowed: null, {', '.join(PROXIES)}")
        if getattr(algorithm, "prefilter", 0) and algorithm.prior is None:
            raise UserError(f"{dotted}.prior: null, but `prefilter` is {algorithm.prefilter}; name a zero-cost proxy, such as az_synflow")
        if hasattr(algorithm, "parents") and algorithm.parents > algorithm.population:
            raise UserError(f"{dotted}.parents: got {algorithm.parents}; allowed: at most the population, {algorithm.population}")


def _check_latents(config: Config) -> None:
    """An unconditional generator needs optimised latents, because nothing else separates the classes."""
    shared = config.inversion.meta_generator
    if not shared.conditional and not shared.latent_learning_rate:
        raise UserError("inversion.meta_generator.latent_learning_rate: got null; allowed: above 0, as `conditional` is false")
    for name, method in config.inversion.methods.items():
        if not isinstance(method, GeneratorInversion):
            continue
        dotted = f"inversion.methods.{name}"
        conditional = shared.conditional if starts_from_meta(method) else method.conditional
        if not conditional and not method.latent_learning_rate:
            raise UserError(f"{dotted}.latent_learning_rate: got null; allowed: above 0, as its generator is not conditional")
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


def refuse_changed(dotted: str, settings: Any, keys: Sequence[str], condition: str) -> None:
    """Refuse keys that have no effect under a condition and are not left at their defaults.

    Raises:
        UserError: names the key, its value, the condition and the default.
    """
    for key in keys:
        value, default = getattr(settings, key), getattr(type(settings)(), key)
        if value != default:
            raise UserError(
                f"{dotted}.{key}: got {as_text(value)}, which has no effect {condition}; leave it out, or set it to {as_text(default)}"
            )


def as_text(value: Any) -> str:
    """A setting as a YAML file has it."""
    return json.dumps(value.value if isinstance(value, Enum) else value)


def _without_effect(config: Config) -> Iterator[tuple[str, Any, Sequence[str], str]]:
    """(dotted key, its settings, the keys among them without effect, the condition) for every condition that holds."""
    if config.data.source is Source.glyphs:
        yield "data", config.data, ["folder"], "with data.source: glyphs"
    if config.inversion.meta_generator.update is OuterUpdate.reptile:
        yield "inversion.meta_generator", config.inversion.meta_generator, ["fresh_optimiser"], "with update: reptile"
    for name, method in config.inversion.methods.items():
        dotted = f"inversion.methods.{name}"
        if isinstance(method, GeneratorInversion) and starts_from_meta(method):
            shape = "with initialisation: meta; inversion.meta_generator has the shape"
            yield dotted, method, GENERATOR_SHAPE, shape
        if isinstance(method, GeneratorInversion) and not method.contrastive:
            yield dotted, method, ["contrastive_temperature", "contrastive_memory"], "with contrastive: 0"
        if isinstance(method, LearnableSetInversion) and not method.adversarial:
            yield dotted, method, ["warm_up", "patience"], "with adversarial: 0"
    for name, arm in config.meta.arms.items():
        dotted = f"meta.arms.{name}"
        if arm.adaptation.part is AdaptedPart.nothing:
            yield f"{dotted}.adaptation", arm.adaptation, ["steps", "learning_rate"], "with part: nothing"
        if isinstance(arm, (DistillationArm, BellArm, IgrArm)) and arm.views is Views.reinforced:
            yield dotted, arm, ["augment"], "with views: reinforced; see reinforcement.augment"
        if isinstance(arm, BellArm) and arm.divergence is Divergence.released:
            yield dotted, arm, ["temperature", "relational"], "with divergence: released"
        if isinstance(arm, (BellArm, IgrArm)) and not arm.distillation:
            yield dotted, arm, ["temperature", "relational"], "with distillation: 0"
        if isinstance(arm, BellArm) and not arm.distillation:
            yield dotted, arm, ["divergence"], "with distillation: 0"
        if isinstance(arm, DroArm) and not arm.perturbation_steps:
            yield dotted, arm, ["perturbation", "robustness"], "with perturbation_steps: 0"
        if isinstance(arm, BellArm) and not arm.replay.episodes:
            yield f"{dotted}.replay", arm.replay, ["patience", "inner_steps", "learning_rate"], "with episodes: 0"
        if isinstance(arm, MamlArm) and not arm.distillation:
            yield dotted, arm, ["temperature"], "with distillation: 0"
    for name, algorithm in config.nas.algorithms.items():
        if isinstance(algorithm, OneShotConfig) and not algorithm.prefilter:
            yield f"nas.algorithms.{name}", algorithm, ["prefilter_share"], "with prefilter: 0"
        if isinstance(algorithm, ProxylessConfig) and not algorithm.cost_weight:
            yield f"nas.algorithms.{name}", algorithm, ["cost", "cost_target"], "with cost_weight: 0"
        if isinstance(algorithm, ZeroCostConfig) and algorithm.generations == 1:
            yield f"nas.algorithms.{name}", algorithm, ["parents", "mutation"], "with generations: 1"
