"""Registries of methods: import on look-up, noted modules, and the members of every registry of the package."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import datafree
from datafree.errors import UserError
from datafree.evaluation.classifiers import CLASSIFIERS
from datafree.evaluation.readouts import READOUTS
from datafree.inversion import METHODS
from datafree.meta import ARMS
from datafree.nas.algorithms import ALGORITHMS
from datafree.nas.proxies import PROXIES
from datafree.nas.proxy import Proxy
from datafree.nas.space import Space
from datafree.nas.spaces import SPACES
from datafree.registry import Registry, noted_modules
from datafree.zoo.backbones import BACKBONES

PARAMETERS = {  # of the functions of each family
    "METHODS": (METHODS, ["recoveries", "method", "shared", "size", "start", "together"]),
    "ARMS": (ARMS, ["learner", "ensemble", "episodes", "arm", "seed", "checkpoint"]),
    "ALGORITHMS": (ALGORITHMS, ["space", "pools", "config", "key", "seed", "device", "checkpoint"]),
    "BACKBONES": (BACKBONES, ["config", "channels", "size"]),
    "CLASSIFIERS": (CLASSIFIERS, ["support", "query"]),
    "READOUTS": (READOUTS, ["features", "logits", "weights"]),
}
LAZY = {"first": "fractions:Fraction", "second": "fractions:gcd_of_the_moon", "third": "colorsys:rgb_to_hsv"}


def modules_of_the_package():
    return [importlib.import_module(module.name) for module in pkgutil.walk_packages(datafree.__path__, "datafree.")]


def test_every_registry_of_the_package_is_tested_here():
    found = {name for module in modules_of_the_package() for name, value in vars(module).items() if isinstance(value, Registry)}
    assert found == {*PARAMETERS, "SPACES", "PROXIES"}


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, (registry, _) in PARAMETERS.items() for name in registry])
def test_every_function_of_a_registry_has_the_parameters_of_its_family(family, name):
    registry, parameters = PARAMETERS[family]
    assert list(inspect.signature(registry[name]).parameters) == parameters


@pytest.mark.parametrize("name", SPACES)
def test_every_search_space_is_a_class_with_the_name_it_is_registered_under(name):
    assert issubclass(SPACES[name], Space)
    assert SPACES[name].name == name


@pytest.mark.parametrize("name", PROXIES)
def test_every_proxy_can_be_looked_up(name):
    assert isinstance(PROXIES[name], Proxy)


def test_names_import_nothing_and_a_look_up_imports_one_module():
    program = (
        "import sys; from datafree.registry import Registry; registry = Registry({'a': 'colorsys:rgb_to_hsv', 'b': 'this:s'})\n"
        "assert list(registry) == ['a', 'b'] and len(registry) == 2 and 'a' in registry and 'x' not in registry and [*registry.keys()]\n"
        "assert not {'colorsys', 'this', 'torch'} & set(sys.modules); registry['a']\n"
        "assert 'colorsys' in sys.modules and 'this' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_unknown_name_is_a_key_error_and_get_gives_the_default():
    with pytest.raises(KeyError):
        Registry(LAZY)["fourth"]
    assert Registry(LAZY).get("fourth", 4) == 4


def test_a_missing_attribute_is_named():
    with pytest.raises(UserError, match="second: fractions has no `gcd_of_the_moon`; define it there, or correct the registered"):
        Registry(LAZY)["second"]


def test_a_missing_module_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"datafree\.no_such_module"):
        Registry({"a": "datafree.no_such_module:recover"})["a"]


def test_look_ups_are_noted_in_every_running_block_and_again_in_the_next():
    registry = Registry(LAZY)
    registry["first"]
    with noted_modules() as outer:
        assert "first" in registry
        assert outer == set()
        registry["first"]
        with noted_modules() as inner:
            registry["third"]
            registry["third"]
        registry["first"]
    registry["third"]
    assert (outer, inner) == ({"fractions", "colorsys"}, {"colorsys"})
    with noted_modules() as again:
        registry["first"]
    assert again == {"fractions"}


def test_an_error_in_a_block_ends_the_block():
    with pytest.raises(ValueError, match="wrong"), noted_modules() as modules:
        raise ValueError("wrong")
    Registry(LAZY)["first"]
    assert modules == set()
