import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafree.errors import UserError
from datafree.zoo import keys

NAMES = ["conv1.weight", "layer1.0.bn1.bias", "layer1.10.bn1.bias", "linear.weight", "linear2.weight"]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, NAMES),
        ({"": "backbone"}, [f"backbone.{name}" for name in NAMES]),
        ({"": ""}, NAMES),
        # whole parts only; the longest pattern applies, whatever the order
        (
            {"": "backbone", "linear": "head"},
            [
                "backbone.conv1.weight",
                "backbone.layer1.0.bn1.bias",
                "backbone.layer1.10.bn1.bias",
                "head.weight",
                "backbone.linear2.weight",
            ],
        ),
        (
            {"layer1.{}.bn1": "blocks.{}.norm"},
            ["conv1.weight", "blocks.0.norm.bias", "blocks.10.norm.bias", "linear.weight", "linear2.weight"],
        ),
        (
            {"layer1": "a", "layer1.{}": "b.{}", "layer1.0": "c", "{}.0": "d.{}"},
            ["conv1.weight", "c.bn1.bias", "b.10.bn1.bias", "linear.weight", "linear2.weight"],
        ),
        ({"{}.{}.bn1": "{}.norm.{}"}, ["conv1.weight", "layer1.norm.0.bias", "layer1.norm.10.bias", "linear.weight", "linear2.weight"]),
        ({"linear": "", "layer1": None}, ["conv1.weight", None, None, "weight", "linear2.weight"]),
        ({"": None, "conv1": "conv1"}, ["conv1.weight", None, None, None, None]),
        ({"linear.weight": "w", "linear.weight.x": "never"}, [*NAMES[:3], "w", "linear2.weight"]),
    ],
)
def test_rules_rename(rules, expected):
    keys.check(rules)
    expected = {name: new for name, new in zip(NAMES, expected, strict=True) if new is not None}
    assert keys.rename(NAMES, rules) == expected
    assert keys.rename(NAMES, dict(reversed(rules.items()))) == expected
    assert keys.rename(NAMES, dict(sorted(rules.items()))) == expected


def test_two_tensors_with_the_same_new_name_are_refused():
    with pytest.raises(UserError, match="^keys: `linear.weight` and `linear2.weight` would both be renamed to `head.weight`"):
        keys.rename(NAMES, {"linear": "head", "linear2": "head"})


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"a.": "b"}, "got 'a.'; expected names joined by single dots"),
        ({"a": ".b"}, "got '.b'; expected names"),
        ({"a..b": "c"}, "got 'a..b'"),
        ({"a{}": "b{}"}, "got 'a{}'; expected names joined"),
        ({"{0}": "{0}"}, "got '{0}'"),
        ({"a.{}": "b"}, "'a.{}': got 'b'; expected as many {} as in the pattern"),
        ({"a": "{}"}, "'a': got '{}'; expected as many"),
        (["a"], "expected a mapping from names to names or null"),
        ({"a": ["b"]}, "expected a mapping"),
        ({"a": 1}, "expected a mapping"),
        ({None: "a"}, "expected a mapping"),
        ({str(number): "x" for number in range(101)}, "101 rules; allowed: at most 100"),
    ],
)
def test_malformed_rules_are_refused(rules, message):
    with pytest.raises(UserError) as caught:
        keys.check(rules)
    assert str(caught.value).startswith(message)


PARTS = st.sampled_from(["a", "b", "0", "{}"])
PATTERNS = st.lists(PARTS, max_size=3).map(".".join)


@given(st.lists(st.lists(st.sampled_from("ab0"), min_size=1, max_size=4).map(".".join), unique=True), st.dictionaries(PATTERNS, PATTERNS))
def test_renaming_loses_no_tensor(names, rules):
    try:
        keys.check(rules)
        renamed = keys.rename(names, rules)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert list(renamed) == names
    assert len(set(renamed.values())) == len(names)
    # A name changes only if some pattern matches it.
    for old, new in renamed.items():
        matching = [p for p in rules if all(x in ("{}", y) for x, y in zip(p.split("."), old.split("."), strict=False)) or not p]
        matching = [p for p in matching if not p or p.count(".") <= old.count(".")]
        assert matching or new == old
