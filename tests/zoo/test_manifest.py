import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from datafree.config import schema as config_schema
from datafree.errors import UserError
from datafree.zoo import keys
from datafree.zoo.manifest import Architecture, Entry, TrainSource, read_manifest

PROJECT = Path(__file__).parents[2]
HASH = "ab" * 32


def read(folder, text, limit=None):
    path = folder / "z.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(path, limit)


def test_entries_are_in_order_and_override_the_defaults(tmp_path):
    text = f"""
defaults: {{architecture: {{name: resnet8, width: 8}}, mean: [0, 0, 0], licence: CC0}}
teachers:
  - {{name: a, train: {{classes: 5, seed: 3}}, architecture: {{width: 16}}}}
  - {{name: b, file: b.pth, classes: [x, y, z], input: [1, 28, 28], mean: [0.1], std: [0.2]}}
  - {{name: c, url: "https://example.org/c.safetensors", sha256: {HASH}, classes: [x, y], licence: MIT}}
"""
    a, b, c = read(tmp_path, text)
    assert [a.name, b.name, c.name] == ["a", "b", "c"]
    assert a.architecture == Architecture("resnet8", 16)
    assert a.train == TrainSource(classes=5, seed=3)
    assert [entry.class_count for entry in (a, b, c)] == [5, 3, 2]
    assert (b.architecture.width, b.mean, b.std, b.input, b.licence) == (8, [0.1], [0.2], [1, 28, 28], "CC0")
    assert (c.sha256, c.licence, c.mean) == (HASH, "MIT", [0, 0, 0])
    assert [entry.name for entry in read(tmp_path, text, limit=2)] == ["a", "b"]
    assert len(read(tmp_path, text, limit=9)) == 3


@pytest.mark.parametrize("path", sorted((PROJECT / "zoos").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_manifests_of_the_project_are_valid(path):
    assert read_manifest(path)


def test_the_examples_of_the_documentation_are_valid(tmp_path):
    page = (PROJECT / "docs" / "bring-your-own-zoo.md").read_text()
    manifest, renaming = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert [entry.name for entry in read(tmp_path, manifest)] == ["animals", "vehicles", "cifar", "imagenet", "letters"]
    rules = yaml.safe_load(renaming)["keys"]
    keys.check(rules)
    names = ["linear.weight", "conv1.weight", "blocks.3.bn.bias", "aux_head.bias"]
    assert list(keys.rename(names, rules).values()) == ["head.weight", "backbone.conv1.weight", "backbone.blocks.3.norm.bias"]
    for name, width in config_schema.BACKBONES.items():
        rows = [row for row in page.splitlines() if row.startswith("|") and f"`{name.replace('*', '<name>')}`" in row]
        assert len(rows) == 1, name
        assert rows[0].endswith(f"| {width or 'its own'} |"), name


GOOD = "name: a, file: a.pth, classes: [x, y]"
MISTAKES = [
    ("teachers: [", "z.yaml: not valid YAML"),
    (b"\xff\xfe\xff", "z.yaml: not valid YAML"),
    ("teachers: [{name: a, licence: 2024-13-01}]", "z.yaml: not valid YAML"),
    ("[" * 400, "z.yaml: not valid YAML"),
    ("- a", "expected a mapping with a non-empty list `teachers`"),
    ("teachers: []", "expected a mapping with a non-empty list `teachers`"),
    ("teachers: {a: 1}", "expected a mapping with a non-empty list `teachers`"),
    (f"teachers: [{{{GOOD}}}]\nteacher: 1", "unknown key 'teacher'; allowed: defaults, teachers"),
    (f"teachers: [{{{GOOD}}}]\ndefaults: 5", "defaults: expected a mapping, got 5"),
    ("teachers: [5]", "teacher 1: expected a mapping with a `name`, got 5"),
    ("teachers: [{file: a.pth}]", "teacher 1: expected a mapping with a `name`"),
    ("teachers: &a [*a]", "teacher 1: expected a mapping with a `name`"),
    ("teachers: [{name: a/b, file: x, classes: [x, y]}]", "a/b: a name may hold letters"),
    ("teachers: [{name: -a, file: x, classes: [x, y]}]", "-a: a name may hold letters"),
    ('teachers: [{name: "a\\nb", file: x, classes: [x, y]}]', "a b: a name may hold letters"),
    ("teachers: [{name: é, file: x, classes: [x, y]}]", "é: a name may hold letters"),
    (f"teachers: [{{{GOOD}}}, {{{GOOD}}}]", "the teacher name 'a' occurs 2 times"),
    (f"teachers: [{{{GOOD}, sha: x}}]", "a: sha: unknown key; did you mean `sha256`?"),
    (f"teachers: [{{{GOOD}, architecture: {{depth: 5}}}}]", "a: architecture.depth: "),
    (f"teachers: [{{{GOOD}, architecture: {{width: wide}}}}]", "a: architecture.width: got 'wide'; expected an integer"),
    (f"teachers: [{{{GOOD}, architecture: {{width: -1}}}}]", "a: architecture.width: got -1; allowed: at least 1, or 0"),
    (f"teachers: [{{{GOOD}, architecture: {{name: torchvision/vit, width: 8}}}}]", "a: architecture.width: got 8; .* a fixed width"),
    ("teachers: &a [{name: a, train: *a}]", "a: "),
    ("teachers: [{name: a, classes: [x, y]}]", "a: expected exactly one of file, url, torchvision, timm, hub, train; got none"),
    (f"teachers: [{{{GOOD}, train: {{classes: 5}}}}]", "a: expected exactly one of .*; got file, train"),
    (f"teachers: [{{{GOOD}, hub: a/b/c, timm: x}}]", "a: expected exactly one of .*; got file, timm, hub"),
    ("teachers: [{name: a, url: 'ftp://x/y', classes: [x, y]}]", "a: url: got 'ftp://x/y'; allowed: http:// and https://"),
    ("teachers: [{name: a, url: 'file:///etc/passwd', classes: [x, y]}]", "a: url: got 'file:///etc/passwd'"),
    ("teachers: [{name: a, url: 'https://x/y', classes: [x, y]}]", "a: sha256: missing; a download must be checked"),
    (f"teachers: [{{name: a, url: 'https://user:pw@x/y', sha256: {HASH}, classes: [x, y]}}]", "a: url: holds a user or password"),
    (f"teachers: [{{name: a, url: 'https:///y', sha256: {HASH}, classes: [x, y]}}]", "a: url: got 'https:///y'; allowed"),
    (f"teachers: [{{name: a, url: 'https://x:99999/y', sha256: {HASH}, classes: [x, y]}}]", "a: url: got 'https://x:99999/y'"),
    (f"teachers: [{{name: a, url: 'https://[x/y', sha256: {HASH}, classes: [x, y]}}]", "a: url: got 'https://.x/y'"),
    ("teachers: [{name: a, torchvision: resnet18}]", "a: torchvision: got 'resnet18'; expected weights such as ResNet18_Weights.IMAGE"),
    ("teachers: [{name: a, timm: a/b, classes: [x, y]}]", "a: timm: got 'a/b'; expected a pretrained model"),
    ("teachers: [{name: a, timm: resnet18.a1_in1k, classes: [x, y]}]", "a: sha256: missing; a download must be checked"),
    ("teachers: [{name: a, hub: owner/name, classes: [x, y]}]", "a: hub: got 'owner/name'; expected owner/repository/file"),
    ("teachers: [{name: a, hub: owner/name/../x, classes: [x, y]}]", "a: hub: got 'owner/name/../x'"),
    ("teachers: [{name: a, hub: owner/name/x, classes: [x, y]}]", "a: sha256: missing; a download must be checked"),
    (f"teachers: [{{name: a, hub: owner/name/x, sha256: {HASH}}}]", "a: classes: expected at least 2 names .* got 0"),
    (f"teachers: [{{{GOOD}, keys: {{a.: b}}}}]", "a: keys: got 'a.'; expected names joined by single dots"),
    (f"teachers: [{{{GOOD}, keys: {{a: 'b.{{}}'}}}}]", "a: keys: 'a': got 'b.{}'; expected as many {}"),
    (f"teachers: [{{{GOOD}, keys: [a, b]}}]", "a: keys"),
    (f"teachers: [{{{GOOD}, keys: {{a: [b]}}}}]", "a: keys"),
    (f"defaults: &d {{keys: *d}}\nteachers: [{{{GOOD}}}]", "defaults: keys: a YAML alias stands for a collection that contains itself"),
    (
        "teachers:\n  - name: a\n    classes: [&a [x, x, x, x, x, x, x, x, x, x], &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a], "
        "&c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b], &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c], [*d, *d, *d, *d, *d, *d, *d, *d, *d]]",
        "a: classes.4: more than 50000 values; write fewer, or fewer YAML aliases",
    ),
    (f"teachers: [{{{GOOD}, sha256: abc}}]", "a: sha256: got 'abc'; expected 64 hexadecimal digits"),
    (f"teachers: [{{{GOOD}, sha256: {HASH.upper()}}}]", "a: sha256: got .* in lower case"),
    ("teachers: [{name: a, file: x}]", "a: classes: expected at least 2 names .* got 0"),
    ("teachers: [{name: a, file: x, classes: [x]}]", "a: classes: expected at least 2 names .* got 1"),
    ("teachers: [{name: a, file: x, classes: [x, y, x]}]", "a: classes: a name occurs twice"),
    ("teachers: [{name: a, file: x, classes: [x, null]}]", "a: classes"),
    ("teachers: [{name: a, train: {classes: 5}, classes: [x, y]}]", "a: classes: given, but the classes of a trained teacher are drawn"),
    ("teachers: [{name: a, train: {classes: 1}}]", "a: train.classes: got 1; allowed: at least 2"),
    ("teachers: [{name: a, train: {steps: -1}}]", "a: train.steps: got -1; allowed: at least 0"),
    ("teachers: [{name: a, train: {label_noise: 1.5}}]", "a: train.label_noise: got 1.5; allowed: 0 to 1"),
    ("teachers: [{name: a, train: {label_noise: .nan}}]", "a: train.label_noise: got nan; allowed: 0 to 1"),
    ("teachers: [{name: a, train: {classes: 5, seeds: 1}}]", "a: train.seeds: "),
    ("teachers: [{name: a, train: 5}]", "a: train: "),
    (f"teachers: [{{{GOOD}, input: [3, 32]}}]", "a: input: got .3, 32.; expected .channels, height, width. with height = width"),
    (f"teachers: [{{{GOOD}, input: [3, 32, 64]}}]", "a: input: got .3, 32, 64."),
    (f"teachers: [{{{GOOD}, input: [0, 32, 32]}}]", "a: input: got .0, 32, 32."),
    (f"teachers: [{{{GOOD}, mean: [0.5]}}]", "a: mean, std: expected 3 values each"),
    (f"teachers: [{{{GOOD}, std: [1, 1]}}]", "a: mean, std: expected 3 values each"),
    (f"teachers: [{{{GOOD}, std: [1, 0, 1]}}]", "a: mean, std: expected 3 values each, std above 0"),
    (f"teachers: [{{{GOOD}, mean: [.nan, 0, 0]}}]", "a: mean, std: expected 3 values each"),
    (f"teachers: [{{{GOOD}, std: [.inf, 1, 1]}}]", "a: mean, std: expected 3 values each"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[str(text)[:60] for text, _ in MISTAKES])
def test_a_mistake_names_the_file_the_teacher_and_the_key(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert "z.yaml" in str(caught.value)


def test_every_source_is_read(tmp_path):
    text = f"""
defaults: {{classes: [x, y], sha256: {HASH}, keys: {{fc: head, "": backbone}}}}
teachers:
  - {{name: a, file: a.pth}}
  - {{name: b, url: "https://example.org:443/b.pth?x=1"}}
  - {{name: c, torchvision: ResNet18_Weights.IMAGENET1K_V1, classes: [], sha256: "", keys: {{}}}}
  - {{name: d, timm: resnet18.a1_in1k}}
  - {{name: e, hub: owner/name/folder/e.safetensors@v1.0, keys: {{"blocks.{{}}.bn": "backbone.blocks.{{}}.norm", aux: null}}}}
"""
    entries = read(tmp_path, text)
    assert [entry.origin for entry in entries] == [
        "a.pth", "https://example.org:443/b.pth?x=1", "torchvision: ResNet18_Weights.IMAGENET1K_V1", "timm: resnet18.a1_in1k",
        "hub: owner/name/folder/e.safetensors@v1.0",
    ]  # fmt: skip
    assert [entry.class_count for entry in entries] == [2, 2, 1000, 2, 2]
    assert entries[0].keys == {"fc": "head", "": "backbone"}
    assert entries[2].keys == {}
    assert entries[4].keys == {"blocks.{}.bn": "backbone.blocks.{}.norm", "aux": None}  # not merged with those of the defaults


def test_a_teacher_with_an_architecture_does_not_take_the_width_of_the_defaults(tmp_path):
    text = f"""
defaults: {{architecture: {{name: conv4, width: 48}}}}
teachers:
  - {{{GOOD}}}
  - {{{GOOD.replace("name: a", "name: b")}, architecture: {{width: 8}}}}
  - {{{GOOD.replace("name: a", "name: c")}, architecture: {{name: resnet20}}}}
  - {{{GOOD.replace("name: a", "name: d")}, architecture: {{name: torchvision/resnet18}}}}
"""
    resolved = [entry.architecture.backbone() for entry in read(tmp_path, text)]
    assert [(config.name, config.width) for config in resolved] == [
        ("conv4", 48), ("conv4", 8), ("resnet20", 16), ("torchvision/resnet18", 0)
    ]  # fmt: skip


def test_an_entry_is_unchanged_after_a_job_card(tmp_path):
    from datafree.config import as_tree, typed

    text = f'teachers: [{{{GOOD}, keys: {{b: c, a: null, "": "", "x.{{}}": "y.{{}}"}}}}]'
    (entry,) = read(tmp_path, text)
    tree = json.loads(json.dumps(as_tree(entry), sort_keys=True))
    assert typed(Entry, tree) == entry
    assert tree["architecture"] == {"name": "conv4", "width": 32}  # the usual width, by value


def test_a_too_large_manifest_is_refused_unread(tmp_path):
    with pytest.raises(UserError, match="z.yaml: 17000000 bytes; allowed: at most 16777216"):
        read(tmp_path, b"#" * 17_000_000)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(UserError, match="^zoo.manifest: cannot read .*absent.yaml: No such file"):
        read_manifest(tmp_path / "absent.yaml")


ODD_VALUES = [
    "a.pth", "https://x/y", "A_Weights.B", "a/b/c", HASH, "${name}", "${", "???", [3, 8, 8], [0.5] * 3, ["x", "y"], [["x"], {}],
    {"classes": 5}, {"name": "b"}, {"a.{}": "b.{}", "": "c"}, {"a": None}, {"": "${a}"}, {"a": ["b"]}, {"name": "timm/x", "width": 3},
]  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 9), st.floats(), st.text(max_size=3), st.sampled_from(ODD_VALUES)
)  # fmt: skip
KEYS = st.sampled_from([field.name for field in dataclasses.fields(Entry)])


@given(st.lists(st.dictionaries(KEYS, VALUES), max_size=3), st.none() | st.dictionaries(KEYS, VALUES))
def test_any_entries_raise_only_user_errors(tmp_path_factory, teachers, defaults):
    assert_only_user_errors(tmp_path_factory, yaml.safe_dump({"teachers": teachers, "defaults": defaults}).encode())


CONTENT = f"defaults: {{mean: [0, 0, 0]}}\nteachers:\n  - {{{GOOD}}}\n  - {{name: b, train: {{classes: 5, seed: 1}}}}\n".encode()


@given(st.one_of(st.binary(max_size=40), st.lists(st.tuples(st.integers(0, len(CONTENT)), st.binary(max_size=2)), max_size=4)))
def test_any_bytes_raise_only_user_errors(tmp_path_factory, change):
    content = change if isinstance(change, bytes) else CONTENT
    for position, inserted in [] if isinstance(change, bytes) else change:
        content = content[:position] + inserted + content[position + 1 :]
    assert_only_user_errors(tmp_path_factory, content)


def assert_only_user_errors(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("manifest") / "z.yaml"
    path.write_bytes(content)
    try:
        entries = read_manifest(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert all(entry.class_count >= 2 for entry in entries)


def test_names_and_numbers_are_converted_to_the_types_of_an_entry(tmp_path):
    values = "classes: [0, 1.5, x, yes], mean: [0, 0, '0.5'], input: ['3', 8, 8], licence: 2024-05-06"
    (entry,) = read(tmp_path, f"teachers: [{{name: a, file: 7, {values}}}]")
    assert (entry.file, entry.classes, entry.licence) == ("7", ["0", "1.5", "x", "True"], "2024-05-06")
    assert [type(value) for value in (*entry.mean, *entry.input)] == [float] * 3 + [int] * 3
