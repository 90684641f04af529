import copy
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from datafree.config import as_tree, as_written, load, merge, resolve, select, text_nulls, typed
from datafree.config.algorithms import ALGORITHM_BOUNDS, ALGORITHM_TYPES
from datafree.config.arms import ARM_BOUNDS, ARM_TYPES, BellArm
from datafree.config.inversions import (
    INVERSION_BOUNDS,
    INVERSION_TYPES,
    GeneratorInversion,
    Initialisation,
    MetaGeneratorConfig,
    starts_from_meta,
)
from datafree.config.renamed import RENAMED
from datafree.config.schema import BOUNDS, BackboneConfig
from datafree.errors import UserError

DEFAULT = as_tree(resolve({}))
ALL_BOUNDS = BOUNDS | INVERSION_BOUNDS | ARM_BOUNDS | ALGORITHM_BOUNDS


def at(dotted: str, value):
    """The tree that sets one dotted key; the part `0` stands for a list."""
    tree = value
    for part in reversed(dotted.split(".")):
        tree = [tree] if part == "0" else {part: tree}
    return tree


def message_of(tree) -> str:
    with pytest.raises(UserError) as caught:
        resolve(tree)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- single keys ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dotted", "hint"),
    [
        ("tasks.shots", "did you mean `shot`?"),
        ("inversion.meta_generator.laten", "did you mean `latent`?"),
        ("inversion.methods.five.step", "did you mean `steps`?"),
        ("meta.arms.bell.backbone.widht", "did you mean `width`?"),
        ("nas.algorithms.spos.channel", "did you mean `channels`?"),
        ("data.glyphs.classes.val", "allowed: train, validation, test"),
        ("sed", "did you mean `seed`?"),
        ("zzz", "allowed: seed, device"),
    ],
)
def test_an_unknown_key_is_named_with_a_suggestion(dotted, hint):
    message = message_of(merge(DEFAULT, at(dotted, 1)))
    assert message.startswith(f"{dotted}: unknown key; ")
    assert hint in message


@pytest.mark.parametrize(
    ("dotted", "value"),
    [
        ("seed", "five"),
        ("seed", 1.5),
        ("seed", True),
        ("seed", None),
        ("seed", [1]),
        ("data", 5),
        ("data.source", "web"),
        ("data.glyphs", "all"),
        ("data.glyphs.difficulty", "hard"),
        ("precision", "float16"),
        ("inversion.methods", ["five"]),
        ("inversion.methods.five", 5),
        ("inversion.methods.five.initialisation", "metal"),
        ("meta", None),
        ("meta.seeds", 3),
        ("meta.seeds", ["a"]),
        ("meta.arms", ["bell"]),
        ("meta.arms.bell", "bell"),
        ("inversion.methods.five.method", "maml"),
        ("meta.arms.bell.method", "unheard-of"),
        ("meta.arms.bell.method", ["bell"]),
        ("meta.arms.bell.augment", "sometimes"),
        ("nas.algorithms.spos.method", 3),
        ("evaluation.shots", [[1]]),
        ("tracking.enabled", "perhaps"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_by_its_dotted_key(dotted, value):
    tree = copy.deepcopy(DEFAULT)
    place = tree
    *path, last = dotted.split(".")
    for part in path:
        place = place[part]
    place[last] = value
    assert message_of(tree).startswith(dotted)


def cases_of_bounds():
    kinds = {"inversion.methods": INVERSION_TYPES, "meta.arms": ARM_TYPES, "nas.algorithms": ALGORITHM_TYPES}
    stars = {
        "data.glyphs.classes": "train",
        "data.glyphs.images_per_class": "train",
        "inversion.loss": "diversity",
    }
    for pattern, (low, high) in ALL_BOUNDS.items():
        before, star, after = pattern.partition("*")
        before = before.rstrip(".")
        if before in kinds:
            name = next(name for name, kind in kinds[before].items() if after.split(".")[1] in kind.__dataclass_fields__)
            dotted = f"{before}.{name}{after}"
        else:
            dotted = f"{before}.{stars.get(before, '0')}{after}" if star else pattern
        if low is not None:
            yield pytest.param(dotted, low - 1 if isinstance(low, int) else 0.0, id=f"{dotted} too small")
        if high is not None:
            yield pytest.param(dotted, high + 1, id=f"{dotted} too large")


@pytest.mark.parametrize(("dotted", "value"), list(cases_of_bounds()))
def test_a_number_out_of_bounds_is_named_with_what_is_allowed(dotted, value):
    message = message_of(merge(DEFAULT, at(dotted, value)))
    assert message.startswith((f"{dotted}: got {value}; allowed: ", f"{dotted}: got {float(value)}; allowed: "))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_no_number_is_nan_or_infinite(value):
    assert message_of({"inversion": {"loss": {"diversity": float(value)}}}).startswith(f"inversion.loss.diversity: got {value}; allowed: ")


def test_a_number_too_large_for_its_type_is_refused():
    assert message_of({"seed": 10**400}).startswith("seed: got 1000")
    assert "too large" in message_of({"inversion": {"loss": {"diversity": 10**400}}})


# ---- combinations -----------------------------------------------------------------------------------------------------------------------

IMPOSSIBLE = [
    ({"device": "gpu"}, "device: got 'gpu'; allowed: auto, cpu, cuda, cuda:N"),
    ({"device": "cuda:"}, "device: got 'cuda:'"),
    ({"device": "cuda:²"}, "device: got"),
    ({"device": "7"}, "device: got '7'"),
    ({"data": {"source": "folder"}}, "data.folder: empty"),
    ({"evaluation": {"split": "train"}}, "evaluation.split: got 'train'; allowed: validation, test"),
    ({"tasks": {"mixed": 1}, "meta": {"arms": {"a": {"method": "igr", "groups": 2}}}}, "meta.arms.a.groups: got 2, but no task"),
    ({"evaluation": {"by_domain": True}}, "evaluation.by_domain: true, but the embedded data has one domain"),
    (
        {"evaluation": {"oracle_backbone": {"name": "nasbench201", "genotype": "searched"}}},
        "evaluation.oracle_backbone.genotype: got 'searched', here or in `backbone`",
    ),
    (
        {"evaluation": {"oracles": ["searched"]}, "nas": {"algorithms": {"spos": None}}},
        "evaluation.oracles: `searched`, but nas.algorithms is empty",
    ),
    ({"evaluation": {"shots": []}}, "evaluation.shots: empty"),
    ({"evaluation": {"shots": []}, "data": {"source": "folder", "folder": "x"}}, "evaluation.shots: empty"),
    (
        {"evaluation": {"split": "test", "way": 13}, "data": {"glyphs": {"classes": {"test": 12}}}},
        "evaluation.way: got 13; .* data.glyphs.classes.test = 12",
    ),
    (
        {"evaluation": {"split": "test", "query": 16, "shots": [5, 1]}, "data": {"glyphs": {"images_per_class": {"test": 20}}}},
        "evaluation.query: 16 and 5 shots",
    ),
    ({"evaluation": {"inference": []}}, "evaluation.inference: got \\[\\]; allowed: at least one of inductive, transductive, each once"),
    ({"evaluation": {"inference": ["inductive", "inductive"]}}, "evaluation.inference: got .* each once"),
    ({"evaluation": {"readouts": ["logits"]}}, "evaluation.readouts: got \\['logits'\\]; allowed: at least one of joined, features, .*"),
    ({"evaluation": {"readouts": []}}, "evaluation.readouts: got \\[\\]; allowed: at least one of"),
    ({"evaluation": {"oracle_steps": 0}}, "evaluation.oracle_steps: got 0; allowed: at least 1"),
    ({"evaluation": {"classifiers": ["svm"]}}, "evaluation.classifiers: got \\['svm'\\]; allowed: .* nearest_centroid, logistic"),
    (
        {"meta": {"arms": {"a": {"method": "maml", "adaptation": {"part": "head"}}}}},
        "meta.arms.a.adaptation.part: got head; allowed: network",
    ),
    ({"meta": {"arms": {"a": {"method": "anil", "adaptation": {"part": "nothing"}}}}}, "meta.arms.a.adaptation.part: .*allowed: head"),
    ({"meta": {"seeds": []}}, "meta.seeds: got \\[\\]"),
    ({"meta": {"seeds": [1, 2, 1]}}, "meta.seeds: got \\[1, 2, 1\\]; .* each once"),
    ({"meta": {"arms": {"bell": {"inversion": "six"}}}}, "meta.arms.bell.inversion: got 'six'; allowed: deep_inversion, five"),
    ({"nas": {"algorithms": {"spos": {"inversion": "six"}}}}, "nas.algorithms.spos.inversion: got 'six'"),
    (
        {
            "meta": {"arms": {"a": {"method": "bell", "backbone": {"name": "nasbench201", "genotype": "searched"}}}},
            "nas": {"algorithms": {"spos": None}},
        },
        "meta.arms.a.backbone.genotype: `searched`, but nas.algorithms is empty",
    ),
    ({"nas": {"algorithms": {"spos": {"prior": "luck"}}}}, "nas.algorithms.spos.prior: got 'luck'; allowed: null, parameters, macs"),
    ({"nas": {"algorithms": {"spos": {"prefilter": 9}}}}, "nas.algorithms.spos.prior: null, but `prefilter` is 9; .*, such as az_synflow"),
    ({"nas": {"algorithms": {"spos": {"parents": 9, "population": 8}}}}, "nas.algorithms.spos.parents: got 9; .* population, 8"),
    ({"meta": {"arms": {"a/b": {"method": "bell"}}}}, "meta.arms.a/b: a name may hold letters"),
    ({"meta": {"arms": {"é": {"method": "bell"}}}}, "meta.arms.é: a name may hold letters"),
    ({"meta": {"arms": {"": {"method": "bell"}}}}, "meta.arms.: a name may hold letters"),
    ({"meta": {"arms": {None: {"method": "bell"}}}}, "meta.arms"),
    ({"nas": {"algorithms": {"a b": {"method": "spos"}}}}, "nas.algorithms.a b: a name may hold letters"),
    ({"inversion": {"methods": {"a.b": {"method": "generator"}}}}, "inversion.methods.a.b: a name may hold letters"),
    ({"inversion": {"methods": {"meta_generator": {"method": "generator"}}}}, "inversion.methods.meta_generator: this name is taken"),
    (
        {"inversion": {"methods": {"meta_generator2": {"method": "generator"}}}},
        "inversion.methods.meta_generator2: ",
    ),  # the rules could not distinguish their paths
    ({"inversion": {"methods": {"real": {"method": "generator"}}}}, "inversion.methods.real: this name is taken"),  # the row of real images
    ({"meta": {"arms": {"pixels": {"method": "bell"}}}}, "meta.arms.pixels: this name is taken"),  # a baseline's row
    ({"meta": {"arms": {"random": {"method": "bell"}}}}, "meta.arms.random: this name is taken"),
    ({"meta": {"arms": {"split": {"method": "bell"}}}}, "meta.arms.split: this name is taken"),  # a key beside the arms in the metrics
    ({"inversion": {"methods": {"five": None, "deep_inversion": None}}}, "inversion.methods: empty"),
    ({"inversion": {"methods": {}}}, "inversion.methods: empty"),
    (
        {"inversion": {"meta_generator": {"conditional": False}}},
        "inversion.meta_generator.latent_learning_rate: got null; allowed: above 0",
    ),
    (
        {"inversion": {"meta_generator": {"conditional": False, "latent_learning_rate": 0.1}}},
        "inversion.methods.five.latent_learning_rate: got null; allowed: above 0, as its generator is not conditional",
    ),
    (
        {"inversion": {"methods": {"five": {"initialisation": "random", "conditional": False}}}},
        "inversion.methods.five.latent_learning_rate: got null",
    ),
    (
        {"inversion": {"methods": {"five": {"latent_learning_rate": 0.1, "calibration_rounds": 3}}}},
        "inversion.methods.five.calibration_rounds: got 3; allowed: 1",
    ),
    ({"meta": {"arms": {"distillation": {"queried": "own"}}}}, "meta.arms.distillation.queried: got own; allowed: all, step"),
    ({"meta": {"arms": {"a": {"method": "igr", "queried": "own"}}}}, "meta.arms.a.queried: got own; allowed: all, step"),
    ({"reinforcement": {"mixed_views": 0}}, "meta.arms.distillation.mixup: true, but reinforcement.mixed_views is 0; raise it"),
    ({"meta": {"arms": {"bell": {"one_head": True, "start": "auto"}}}}, "meta.arms.bell.one_head: true, but a copy of a teacher"),
    (
        {"tasks": {"mixed": 1}, "meta": {"arms": {"bell": {"queried": "own"}}}},
        "meta.arms.bell.queried: own, but no task is of one teacher",
    ),
]


@pytest.mark.parametrize(("overlay", "message"), IMPOSSIBLE, ids=[message[:50] for _, message in IMPOSSIBLE])
def test_an_impossible_combination_is_refused(overlay, message):
    tree = _without(DEFAULT, "inversion.methods") if overlay == {"inversion": {"methods": {}}} else DEFAULT
    with pytest.raises(UserError, match=f"^{message}"):
        resolve(merge(tree, overlay))


def _without(tree, dotted):
    section, family = dotted.split(".")
    return {**tree, section: {key: value for key, value in tree[section].items() if key != family}}


WITHOUT_EFFECT = [
    ({"data": {"folder": "photos"}}, 'data.folder: got "photos", .* with data.source: glyphs'),
    ({"inversion": {"meta_generator": {"fresh_optimiser": True}}}, "inversion.meta_generator.fresh_optimiser: got true, .* reptile"),
    ({"inversion": {"methods": {"five": {"latent": 64}}}}, "inversion.methods.five.latent: got 64, .* with initialisation: meta"),
    ({"inversion": {"methods": {"five": {"width": 8}}}}, "inversion.methods.five.width: got 8, .* with initialisation: meta"),
    ({"inversion": {"methods": {"five": {"conditional": True}}}}, "inversion.methods.five.conditional: got true, .* initialisation: meta"),
    ({"inversion": {"methods": {"five": {"contrastive_memory": 9}}}}, "inversion.methods.five.contrastive_memory: .* contrastive: 0"),
    (
        {"inversion": {"methods": {"purer": {"method": "learnable_set", "adversarial": 0, "patience": 9}}}},
        "inversion.methods.purer.patience: got 9, .* with adversarial: 0",
    ),
    ({"meta": {"arms": {"bell": {"adaptation": {"steps": 3}}}}}, "meta.arms.bell.adaptation.steps: got 3, .* with part: nothing"),
    ({"meta": {"arms": {"bell": {"divergence": "released", "temperature": 2}}}}, "meta.arms.bell.temperature: got 2.0, .* released"),
    ({"meta": {"arms": {"bell": {"divergence": "released", "relational": 2}}}}, "meta.arms.bell.relational: got 2.0, .* released"),
    ({"meta": {"arms": {"distillation": {"augment": False}}}}, "meta.arms.distillation.augment: got false, .* views: reinforced"),
    ({"meta": {"arms": {"bell": {"replay": {"inner_steps": 2}}}}}, "meta.arms.bell.replay.inner_steps: got 2, .* with episodes: 0"),
    ({"meta": {"arms": {"a": {"method": "maml", "temperature": 2}}}}, "meta.arms.a.temperature: got 2.0, .* with distillation: 0"),
    ({"nas": {"algorithms": {"spos": {"prefilter_share": 0.5}}}}, "nas.algorithms.spos.prefilter_share: got 0.5, .* with prefilter: 0"),
    (
        {"meta": {"arms": {"bell": {"distillation": 0, "divergence": "released"}}}},
        'meta.arms.bell.divergence: got "released", .* distillation: 0',
    ),
    (
        {"meta": {"arms": {"a": {"method": "igr", "distillation": 0, "temperature": 2}}}},
        "meta.arms.a.temperature: got 2.0, .* distillation: 0",
    ),
    (
        {"meta": {"arms": {"a": {"method": "dro", "perturbation_steps": 0, "robustness": 1}}}},
        "meta.arms.a.robustness: got 1.0, .* with perturbation_steps: 0",
    ),
    (
        {"nas": {"algorithms": {"a": {"method": "proxyless", "cost_weight": 0, "cost": "latency"}}}},
        'nas.algorithms.a.cost: got "latency", .* with cost_weight: 0',
    ),
    (
        {"nas": {"algorithms": {"a": {"method": "zero_cost", "generations": 1, "parents": 2}}}},
        "nas.algorithms.a.parents: got 2, .* with generations: 1",
    ),
]


@pytest.mark.parametrize(("overlay", "message"), WITHOUT_EFFECT, ids=[message.partition(":")[0] for _, message in WITHOUT_EFFECT])
def test_a_key_that_another_setting_leaves_without_effect_is_refused(overlay, message):
    assert re.fullmatch(f"{message}.*; leave it out, or set it to .+", message_of(merge(DEFAULT, overlay)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("inversion.companions", "inversion.auxiliary_teachers"),
        ("inversion.loss.companions", "inversion.loss.auxiliary_teachers"),
        ("meta.arms.distillation.pool", "meta.arms.distillation.images_per_class"),
        ("nas.algorithms.spos.screened", "nas.algorithms.spos.prefilter"),
        ("nas.algorithms.spos.kept", "nas.algorithms.spos.prefilter_share"),
        ("nas.algorithms.spos.score", "nas.algorithms.spos.proxy"),
    ],
)
def test_the_old_name_of_a_renamed_key_is_refused_with_the_new_one(old, new):
    assert message_of(merge(DEFAULT, at(old, 1))) == f"{old}: this key was renamed; write {new}"


def test_every_renamed_key_exists_only_under_its_new_name():
    keys = {".".join(["*" if part in ("five", "bell", "spos") else part for part in path]) for path in paths_of(DEFAULT)}
    keys |= {"meta.arms.*.images_per_class", "nas.algorithms.*.proxy"}  # keys of an arm and a search that the default does not have
    assert set(RENAMED.values()) <= keys
    assert not set(RENAMED) & keys


@pytest.mark.parametrize("dotted", ["zoo.limit", "nas.algorithms.spos.max_macs", "nas.algorithms.spos.max_latency"])
def test_no_limit_is_null_and_not_zero(dotted):
    assert message_of(merge(DEFAULT, at(dotted, 0))).endswith(", or null for none")
    resolve(merge(DEFAULT, at(dotted, None)))


# ---- the default backbone ---------------------------------------------------------------------------------------------------------------


def test_arms_and_oracles_have_the_default_backbone_unless_they_override_it():
    arms = {"plain": {"method": "bell"}, "wide": {"method": "bell", "backbone": {"width": 99}}, "null": {"method": "igr", "backbone": None}}
    config = resolve({"backbone": {"name": "resnet10", "width": 48}, "meta": {"arms": arms}})
    assert config.evaluation.oracle_backbone == config.meta.arms["plain"].backbone == BackboneConfig("resnet10", 48)
    assert config.meta.arms["null"].backbone == BackboneConfig("resnet10", 48)
    assert config.meta.arms["wide"].backbone == BackboneConfig("resnet10", 99)
    over = resolve({"backbone": {"width": 16}, "evaluation": {"oracle_backbone": {"width": 64}}})
    assert (over.evaluation.oracle_backbone.width, over.meta.arms["bell"].backbone.width) == (64, 16)


def test_another_architecture_takes_no_genotype_from_the_default():
    default = {"name": "nasbench201", "width": 8, "genotype": "searched", "cells": 3}
    arms = {"a": {"method": "bell", "backbone": {"name": "conv4"}}, "b": {"method": "bell", "backbone": {"cells": 2}}}
    config = resolve({"backbone": default, "meta": {"arms": arms}, "evaluation": {"oracle_backbone": {"name": "conv4"}}})
    assert config.meta.arms["a"].backbone == BackboneConfig("conv4", 8)
    assert config.meta.arms["b"].backbone == BackboneConfig("nasbench201", 8, "searched", 2)


def test_a_written_configuration_resolves_to_itself_and_follows_its_default_backbone():
    methods = {"own": {"method": "generator", "initialisation": "random", "width": 8}}
    arms = {
        "plain": {"method": "bell"},
        "wide": {"method": "bell", "backbone": {"width": 99}},
        "other": {"method": "igr", "backbone": {"name": "resnet10", "width": 64}},
        "searched": {"method": "distillation", "backbone": {"name": "nasbench201", "width": 8, "genotype": "searched"}},
    }
    config = resolve(merge(DEFAULT, {"inversion": {"methods": methods}, "meta": {"arms": arms}}))
    written = as_written(config)
    assert resolve(written) == config
    assert resolve(yaml.safe_load(yaml.safe_dump(written))) == config
    assert written["evaluation"]["oracle_backbone"] == written["meta"]["arms"]["plain"]["backbone"] == {}
    changed = resolve(merge(written, {"backbone": {"width": 16}, "inversion": {"meta_generator": {"latent": 9}}}))
    assert changed.evaluation.oracle_backbone.width == changed.meta.arms["plain"].backbone.width == 16
    assert (changed.meta.arms["wide"].backbone.width, changed.meta.arms["searched"].backbone.width) == (99, 8)
    assert (changed.inversion.methods["own"].latent, changed.inversion.methods["own"].width) == (9, 8)


def test_the_text_null_of_a_command_line_is_null():
    tree = {"zoo": {"limit": "null"}, "meta": {"arms": {"bell": "null"}, "seeds": [0, 1]}}
    assert text_nulls(tree) == {"zoo": {"limit": None}, "meta": {"arms": {"bell": None}, "seeds": [0, 1]}}


@pytest.mark.parametrize(
    ("dotted", "expected"),
    [
        ("backbone.width", "an integer"),
        ("precision", "one of auto, float32, bfloat16"),
        ("data", "a mapping"),
        ("inversion.methods.five.learning_rate", "a number"),
        ("inversion.methods.five.diversity", "true or false"),
        ("meta.seeds", "a list"),
        ("zoo.manifest", "text"),
    ],
)
def test_null_where_a_value_is_needed_is_refused_with_what_is_expected(dotted, expected):
    assert message_of(merge(DEFAULT, at(dotted, None))) == f"{dotted}: got null; expected {expected}"


@pytest.mark.parametrize("dotted", ["backbone", "evaluation.oracle_backbone", "meta.arms.bell.backbone"])
def test_a_backbone_that_is_no_mapping_is_refused(dotted):
    assert message_of(merge(DEFAULT, at(dotted, 5))).startswith(dotted)


def test_a_randomly_initialised_generator_has_the_shape_of_the_meta_generator_unless_it_says_otherwise():
    methods = {"own": {"method": "generator", "initialisation": "random", "width": 8}}
    config = resolve(
        {"inversion": {"meta_generator": {"latent": 9, "width": 16}, "methods": {"deep_inversion": {"method": "pixels"}, **methods}}}
    )
    own = config.inversion.methods["own"]
    assert (own.latent, own.width, own.conditional) == (9, 8, True)


# ---- arms -------------------------------------------------------------------------------------------------------------------------------


def test_null_removes_an_arm_and_a_new_name_adds_one():
    overlay = {
        "meta": {"arms": {"bell": None, "slow_bell": {"method": "bell", "steps": 7}}},
        "nas": {"algorithms": {"spos": None}},
        "inversion": {"methods": {"five": None, "fresh": {"method": "generator", "initialisation": "random"}}},
    }
    config = resolve(merge(DEFAULT, overlay))
    assert list(config.meta.arms) == ["distillation", "slow_bell"]
    assert config.meta.arms["slow_bell"] == BellArm(steps=7)
    assert config.nas.algorithms == {}
    assert list(config.inversion.methods) == ["deep_inversion", "fresh"]
    assert config.inversion.methods["fresh"] == GeneratorInversion(
        initialisation=Initialisation.random, latent=64, width=32, conditional=True
    )


def test_the_method_of_an_arm_defaults_to_its_name():
    assert resolve({"meta": {"arms": {"bell": {"steps": 3}}}}).meta.arms == {"bell": BellArm(steps=3)}


def test_only_generator_inversion_can_start_from_the_meta_generator():
    assert starts_from_meta(GeneratorInversion())
    assert not starts_from_meta(GeneratorInversion(initialisation=Initialisation.random))
    assert not starts_from_meta(BellArm())  # settings without `initialisation`


def test_every_arm_may_be_removed_but_not_every_inversion_method():
    assert resolve({"meta": {"arms": {}}, "nas": {"algorithms": {}}}).meta.arms == {}


# ---- files, merging, typed settings -----------------------------------------------------------------------------------------------------


def test_later_files_override_earlier_ones(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 1\ntasks: {way: 3, shot: 2}\nevaluation: {shots: [1, 2, 3]}")
    (tmp_path / "b.yaml").write_text("tasks: {shot: 4}\nevaluation: {shots: [5]}")
    (tmp_path / "c.yaml").write_text("")
    config = load(tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml")
    assert (config.seed, config.tasks.way, config.tasks.shot, config.evaluation.shots) == (1, 3, 4, [5])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*p.yaml: No such file"),
        (b"a: [1", "not valid YAML"),
        (b"\xff\xfe\xff", "not valid YAML"),
        (b"[1, 2]", "expected a mapping of sections, got list"),
        (b"seed: 2020-13-45", "not valid YAML"),
        (b"seed: !!bool x", "not valid YAML"),
        (b"seed: !!timestamp x", "not valid YAML"),
        (b"[" * 400, "not valid YAML"),
        (b"seed: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "p.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_scientific_notation_that_yaml_reads_as_text_is_a_number(tmp_path):
    (tmp_path / "p.yaml").write_text("inversion: {loss: {diversity: 1e-3}}")
    assert load(tmp_path / "p.yaml").inversion.loss.diversity == 0.001


trees = st.recursive(st.integers(0, 3), lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=8)


@given(trees.filter(lambda t: isinstance(t, dict)), trees.filter(lambda t: isinstance(t, dict)))
def test_merging_replaces_only_overridden_values_and_changes_no_argument(base, over):
    before = copy.deepcopy((base, over))
    both = merge(base, over)
    assert (base, over) == before
    assert set(both) == set(base) | set(over)
    for key in both:
        if key not in over:
            assert both[key] == base[key]
        elif isinstance(over[key], dict) and isinstance(base.get(key), dict):
            assert both[key] == merge(base[key], over[key])
        else:
            assert both[key] == over[key]


def test_selected_keys_convert_back_to_dataclasses():
    config = resolve({"inversion": {"shift": 3}, "meta": {"arms": {"bell": {"backbone": {"width": 32}}}}})
    chosen = select(config, "seed", "inversion.meta_generator", "inversion.shift", "precision", "meta.arms")
    assert chosen["inversion.shift"] == 3
    assert chosen["precision"] == "auto"
    assert yaml.safe_load(yaml.safe_dump(chosen)) == chosen
    assert typed(MetaGeneratorConfig, chosen["inversion.meta_generator"]) == config.inversion.meta_generator
    assert typed(BellArm, chosen["meta.arms"]["bell"]) == config.meta.arms["bell"]
    with pytest.raises(UserError, match="unknown key"):
        typed(BackboneConfig, {"depth": 3})


# ---- arbitrary values -------------------------------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.dates(), st.binary(max_size=2),
    st.sampled_from(["bell", "spos", "five", "folder", "auto", "???", "${seed}", "${", "${oc.env:HOME}", "a\nb", "1e-3", "searched"]),
)  # fmt: skip
keys = st.one_of(
    st.sampled_from(sorted({part for key in ALL_BOUNDS for part in key.split(".")} | {"method", "name", "backbone"})),
    scalars,
)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=10)


def paths_of(tree, path=()):
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from paths_of(value, (*path, key))


def resolves_or_raises_user_error(tree) -> None:
    try:
        resolve(tree)
    except UserError as error:
        assert "\n" not in str(error)


@given(st.lists(st.tuples(st.sampled_from(sorted(paths_of(DEFAULT))), anything), min_size=1, max_size=2))
def test_any_replaced_value_is_valid_or_a_user_error(changes):
    tree = copy.deepcopy(DEFAULT)
    for path, value in changes:
        place = tree
        for part in path[:-1]:
            place = place[part] if isinstance(place, dict) and part in place else {}
        if isinstance(place, dict):
            place[path[-1]] = value
    resolves_or_raises_user_error(tree)


@given(st.dictionaries(keys, anything, max_size=3))
def test_any_tree_is_valid_or_a_user_error(tree):
    resolves_or_raises_user_error(tree)


@given(
    st.sampled_from(["meta", "nas", "inversion"]), st.dictionaries(st.sampled_from(["arms", "algorithms", "methods", "seeds"]), anything)
)
def test_any_arms_are_valid_or_a_user_error(section, tree):
    resolves_or_raises_user_error({section: tree})
