"""The order in which files and mappings name settings makes no difference."""

import functools
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from datafree.config import as_tree, load, merge, references, resolve, searched_algorithm
from datafree.config.schema import SETS
from datafree.errors import UserError

PROJECT = Path(__file__).parents[2]
PARAMS = PROJECT / "params.yaml"
TREES = {
    path.stem: functools.reduce(merge, [yaml.safe_load(file.read_text()) for file in (PARAMS, path)])
    for path in (PROJECT / "presets/arms.yaml", PROJECT / "presets/searches.yaml", PROJECT / "presets/smoke.yaml")
}
TREES["sets"] = merge(
    TREES["arms"],
    {
        "meta": {"seeds": [0, 1, 2]},
        "evaluation": {"shots": [1, 2, 5], **{key: list(members) for key, members in SETS.items()}},
    },
)
SET_KEYS = {"seeds", "shots", *SETS}


def text_of(tree) -> str:
    """What a record holds, order included."""
    config = resolve(tree)
    return json.dumps([as_tree(config), references(config)])


def permuted(data, tree, key=""):
    if isinstance(tree, dict):
        return {name: permuted(data, tree[name], name) for name in data.draw(st.permutations(list(tree)))}
    return data.draw(st.permutations(tree)) if key in SET_KEYS else tree


@given(st.data(), st.sampled_from(sorted(TREES)))
def test_any_order_of_mappings_and_sets_resolves_to_the_same_text(data, name):
    assert text_of(permuted(data, TREES[name])) == text_of(TREES[name])


def test_a_preset_alone_equals_the_preset_over_params_yaml():
    params, preset = (yaml.safe_load(path.read_text()) for path in (PARAMS, PROJECT / "presets" / "smoke.yaml"))
    alone = merge(merge(preset, params), preset)  # in the order of Snakemake, which reads `--configfile` before the Snakefile
    assert text_of(alone) == text_of(merge(params, preset))


def test_a_resolved_configuration_is_in_canonical_order():
    config = resolve(merge(TREES["sets"], {"meta": {"seeds": [10, 9]}, "evaluation": {"shots": [5, 1], "oracles": ["maml", "classifier"]}}))
    assert (config.meta.seeds, config.evaluation.shots, config.evaluation.oracles) == ([9, 10], [1, 5], ["classifier", "maml"])
    for members in (config.meta.arms, config.nas.algorithms, config.inversion.methods):
        assert list(members) == sorted(members)


def test_a_number_of_shots_that_occurs_twice_is_refused():
    with pytest.raises(UserError, match=r"^evaluation.shots: got \[1, 5, 1\]; allowed: each number once"):
        resolve({"evaluation": {"shots": [1, 5, 1]}})


def test_the_searched_algorithm_is_named_or_the_first_by_name():
    algorithms = {"spos": {}, "darts": {}}
    assert searched_algorithm(resolve({"nas": {"algorithms": algorithms}}).nas) == "darts"
    assert searched_algorithm(resolve({"nas": {"algorithms": algorithms, "searched": "spos"}}).nas) == "spos"
    assert searched_algorithm(load(PARAMS, PROJECT / "presets/searches.yaml").nas) == "spos"
    with pytest.raises(UserError, match="^nas.searched: got 'random'; allowed: null, darts, spos"):
        resolve({"nas": {"algorithms": algorithms, "searched": "random"}})
