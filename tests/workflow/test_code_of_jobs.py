"""The code of a job: the static imports of its stage, and those of the modules that it looks up in registries."""

from __future__ import annotations

import pkgutil
import random

import pytest
import torch

from datafree import stages
from datafree.config import BackboneConfig
from datafree.config.algorithms import SposConfig
from datafree.evaluation.classifiers import CLASSIFIERS
from datafree.evaluation.readouts import READOUTS
from datafree.inversion import METHODS
from datafree.meta import ARMS
from datafree.nas import spaces
from datafree.nas.algorithms import ALGORITHMS
from datafree.nas.networks import build
from datafree.nas.proxies import PROXIES
from datafree.nas.proxy_scores import proxy_measures, proxy_scores
from datafree.registry import Registry, noted_modules
from datafree.workflow.code import Source
from datafree.zoo.backbones import BACKBONES

FAMILIES: dict[str, Registry] = {
    "inversion methods": METHODS,
    "arms": ARMS,
    "algorithms": ALGORITHMS,
    "spaces": spaces.SPACES,
    "proxies": PROXIES,
    "backbones": BACKBONES,
    "classifiers": CLASSIFIERS,
    "read-outs": READOUTS,
}
SOURCE = Source.read()
STAGES = [module.name for module in pkgutil.iter_modules(stages.__path__) if not module.ispkg]
# What the evaluation uses whatever its settings are, what gives a learner's file the constants of its read-out, and the proxy that is the
# combination of two others.
ALWAYS = {
    "few_shot": {"datafree.evaluation.nearest_centroid", "datafree.evaluation.representations"},
    "networks": {"datafree.evaluation.nearest_centroid", "datafree.evaluation.representations"},
    "learner": {"datafree.evaluation.representations"},
}
COMBINED = {"datafree.nas.proxies.az_synflow": {"datafree.nas.proxies.az_nas", "datafree.nas.proxies.synflow"}}


def module_of(registry: Registry, name: str) -> str:
    return registry.targets[name].partition(":")[0]


MEMBERS = sorted({module_of(registry, name) for registry in FAMILIES.values() for name in registry})


def modules_in(*roots: str) -> set[str]:
    """The modules of the package in the code of ``roots``."""
    paths = [path.removesuffix(".py").removesuffix("/__init__") for path in SOURCE.files_of(roots)]
    return {"datafree." + path.replace("/", ".") for path in paths}


@pytest.mark.parametrize("stage", STAGES)
def test_the_imports_of_a_stage_hold_no_method_of_any_family(stage):
    assert modules_in(f"datafree.stages.{stage}") & set(MEMBERS) == ALWAYS.get(stage, set())


@pytest.mark.parametrize("member", MEMBERS)
def test_the_imports_of_a_method_hold_no_other_method(member):
    assert modules_in(member) & set(MEMBERS) == {member} | COMBINED.get(member, set())


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edited_method_concerns_only_the_jobs_that_look_it_up(family):
    registry = FAMILIES[family]
    for name in registry:
        with noted_modules() as noted:
            registry[name]
        module = module_of(registry, name)
        assert noted == {module}
        code = modules_in(module)
        concerned = {other for other in registry if module_of(registry, other) in code}
        assert concerned == {other for other in registry if module_of(registry, other) in {module, *COMBINED.get(module, ())}}


@pytest.mark.parametrize("name", ["conv4", "vgg11", "resnet20"])
def test_building_a_backbone_notes_its_module_alone(name):
    with noted_modules() as noted:
        build(BackboneConfig(name, 8), 3, 32, 0)
    assert noted == {module_of(BACKBONES, name)}


@pytest.mark.parametrize("name", spaces.SPACES)
def test_the_code_of_a_space_holds_its_network_and_supernet_and_those_of_no_other(name):
    with noted_modules() as noted:
        space = spaces.of(SposConfig(space=name, channels=8, cells=1), 32)
        build(space.backbone(space.sample(random.Random(0))), 3, 32, 0)
    assert noted == {module_of(spaces.SPACES, name)}
    package = noted.pop().removesuffix(".space")
    within = {module for module in modules_in(f"{package}.space") if module.startswith("datafree.nas.spaces.")}
    assert {f"{package}.{part}" for part in ("genotype", "space", "network", "supernet")} <= within
    assert all(module.startswith(package) for module in within)


@pytest.mark.parametrize("name", ["macs", "zen", "az_synflow"])
def test_a_proxy_notes_its_own_module_when_measuring_and_when_scoring(name):
    space = spaces.SPACES["nasbench201"](4, 1, 16)
    with noted_modules() as noted:
        measures = {space.cheapest(): proxy_measures(name, space, space.cheapest(), 3, 4, 0, torch.device("cpu"))}
    with noted_modules() as again:
        proxy_scores(name, space, measures)
    assert noted == again == ({module_of(PROXIES, name)} if name in PROXIES else set())
