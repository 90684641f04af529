from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafree.errors import UserError
from datafree.zoo.manifest import Architecture, TrainSource, read_manifest

PROJECT = Path(__file__).parents[2]
HASH = "ab" * 32


def read(folder, text, limit=0):
    path = folder / "z.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(path, limit)


def test_entries_come_in_order_with_the_defaults_under_them(tmp_path):
    text = """
defaults: {architecture: {name: resnet8, width: 8}, mean: [0, 0, 0], licence: CC0}
teachers:
  - {name: a, train: {classes: 5, seed: 3}, architecture: {width: 16}}
  - {name: b, file: b.pth, classes: [x, y, z], input: [1, 28, 28], mean: [0.1], std: [0.2]}
  - {name: c, url: "https://example.org/c.safetensors", sha256: HASH, classes: [x, y], licence: MIT}
""".replace("HASH", HASH)
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
def test_the_projects_own_manifests_can_be_read(path):
    assert read_manifest(path)


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
    (f"teachers: [{{{GOOD}, sha: x}}]", "a: sha: Key 'sha' not in 'Entry'"),
    (f"teachers: [{{{GOOD}, architecture: {{depth: 5}}}}]", "a: architecture.depth: "),
    (f"teachers: [{{{GOOD}, architecture: {{width: wide}}}}]", "a: architecture.width: Value 'wide'"),
    (f"teachers: [{{{GOOD}, architecture: {{width: 0}}}}]", "a: architecture.width: got 0; allowed: at least 1"),
    ("teachers: &a [{name: a, train: *a}]", "a: "),
    ("teachers: [{name: a, classes: [x, y]}]", "a: expected exactly one of file, url and train, got none"),
    (f"teachers: [{{{GOOD}, train: {{classes: 5}}}}]", "a: expected exactly one of file, url and train, got file, train"),
    ("teachers: [{name: a, url: 'ftp://x/y', classes: [x, y]}]", "a: url: got 'ftp://x/y'; allowed: http:// and https://"),
    ("teachers: [{name: a, url: 'file:///etc/passwd', classes: [x, y]}]", "a: url: got 'file:///etc/passwd'"),
    ("teachers: [{name: a, url: 'https://x/y', classes: [x, y]}]", "a: sha256: missing; a download must be checked"),
    (f"teachers: [{{{GOOD}, sha256: abc}}]", "a: sha256: got 'abc'; expected 64 hexadecimal digits"),
    (f"teachers: [{{{GOOD}, sha256: {HASH.upper()}}}]", "a: sha256: got .* in lower case"),
    ("teachers: [{name: a, file: x}]", "a: classes: expected at least 2 names .* got 0"),
    ("teachers: [{name: a, file: x, classes: [x]}]", "a: classes: expected at least 2 names .* got 1"),
    ("teachers: [{name: a, file: x, classes: [x, y, x]}]", "a: classes: a name occurs twice"),
    ("teachers: [{name: a, file: x, classes: [x, null]}]", "a: classes"),
    ("teachers: [{name: a, train: {classes: 5}, classes: [x, y]}]", "a: classes: given, but a trained teacher draws its classes"),
    ("teachers: [{name: a, train: {classes: 1}}]", "a: train.classes: got 1; allowed: at least 2"),
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


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(UserError, match="^zoo.manifest: cannot read .*absent.yaml: No such file"):
        read_manifest(tmp_path / "absent.yaml")


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 9), st.floats(), st.text(max_size=3),
    st.sampled_from(["a.pth", "https://x/y", HASH, "${name}", "???", [3, 8, 8], [0.5] * 3, ["x", "y"], {"classes": 5}, {"name": "b"}]),
)  # fmt: skip
KEYS = st.sampled_from(["name", "architecture", "file", "url", "sha256", "train", "classes", "input", "mean", "std", "licence"])


@given(st.lists(st.dictionaries(KEYS, VALUES), max_size=3), st.none() | st.dictionaries(KEYS, VALUES))
def test_whatever_the_entries_the_error_is_one_of_ours(tmp_path_factory, teachers, defaults):
    import yaml

    survives(tmp_path_factory, yaml.safe_dump({"teachers": teachers, "defaults": defaults}).encode())


CONTENT = f"defaults: {{mean: [0, 0, 0]}}\nteachers:\n  - {{{GOOD}}}\n  - {{name: b, train: {{classes: 5, seed: 1}}}}\n".encode()


@given(st.one_of(st.binary(max_size=40), st.lists(st.tuples(st.integers(0, len(CONTENT)), st.binary(max_size=2)), max_size=4)))
def test_whatever_the_bytes_the_error_is_one_of_ours(tmp_path_factory, change):
    content = change if isinstance(change, bytes) else CONTENT
    for place, inserted in [] if isinstance(change, bytes) else change:
        content = content[:place] + inserted + content[place + 1 :]
    survives(tmp_path_factory, content)


def survives(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("manifest") / "z.yaml"
    path.write_bytes(content)
    try:
        entries = read_manifest(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert all(entry.class_count >= 2 for entry in entries)
