"""Presets, manifests and Snakemake's configuration of unknown origin."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from datafree.config import load, resolve, text_nulls
from datafree.config.bounded import MAX_BYTES, MAX_DEPTH, check_bounded, read_yaml
from datafree.errors import UserError
from datafree.zoo.manifest import read_manifest


def repeated(levels: int, opening: str = "[", closing: str = "]") -> str:
    """Lists of ten aliases each: 10 to the power of ``levels`` values."""
    parts = [f"&a0 {opening}{', '.join('x' * 10)}{closing}"]
    parts += [f"&a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, levels)]
    return f"[{', '.join(parts)}]"


def nested(levels: int, value=1):
    for _ in range(levels):
        value = {"a": value}
    return value


HOSTILE = [
    (f"tasks: {repeated(12)}", "p.yaml: tasks.4: more than 50000 values; write fewer, or fewer YAML aliases"),
    ("tasks: &t {way: *t}", "p.yaml: tasks.way: a YAML alias stands for a collection that contains itself"),
    ("&t {tasks: *t}", "p.yaml: tasks: a YAML alias stands for a collection that contains itself"),
    ("tasks: {way: &t [*t]}", "p.yaml: tasks.way.0: a YAML alias"),
    ("data: {folder: '${oc.env:HOME}'}", "p.yaml: data.folder: got '${oc.env:HOME}'; `${` is not allowed"),
    ("tasks: {3: 4}", "p.yaml: tasks: got the key 3; expected text, write it in quotes"),
    ("on: 4", "p.yaml: configuration: got the key True; expected text"),
    (f"tasks: {'[' * 70}{']' * 70}", f"more than {MAX_DEPTH} levels"),
    ("[" * 1_000_000 + "]" * 1_000_000, "p.yaml: not valid YAML: more than 100 levels"),
    ("- " * 1_000_000, "p.yaml: not valid YAML: more than 100 levels"),
    ("seed: " + "1:" * 1_000_000 + "1", "p.yaml: not valid YAML: a value of 2000001 characters; allowed: at most 10000"),
    ("seed: 0x" + "f" * 9000, "seed: got an integer of too many digits; this number is too large"),
    ("a: &a {<<: *a}", "p.yaml: not valid YAML"),
    (
        "a: &a {a: 1, b: 2}\nb: &b {<<: [" + "*a, " * 99 + "*a]}\nc: &c {<<: [" + "*b, " * 99 + "*b]}\nd: &d {<<: [" + "*c, " * 99 + "*c]}",
        "p.yaml: not valid YAML: `<<` inserts more than 50000 values; write fewer",
    ),
]


@pytest.mark.parametrize(("text", "message"), HOSTILE, ids=[message[:60] for _, message in HOSTILE])
def test_a_hostile_preset_is_one_line(tmp_path, text, message):
    (tmp_path / "p.yaml").write_text(text)
    (tmp_path / "base.yaml").write_text(text)  # two files, because merging goes through both
    for paths in ([tmp_path / "p.yaml"], [tmp_path / "base.yaml", tmp_path / "p.yaml"]):
        with pytest.raises(UserError) as caught:
            load(*paths)
        assert message.removeprefix("p.yaml: ") in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(("text", "message"), HOSTILE[:4], ids=["large", "cycle", "whole", "list"])
def test_aliases_that_snakemake_has_read_are_refused_before_any_copy(text, message):
    tree = yaml.safe_load(text)
    for function in (text_nulls, resolve):
        with pytest.raises(UserError, match=re.escape(message.removeprefix("p.yaml: "))):
            function(tree)


def test_a_manifest_that_contains_itself_is_refused(tmp_path):
    defaults, teacher = "&d {architecture: *d}", "{name: a, file: f, classes: [x, y], architecture: &b {architecture: *b}}"
    (tmp_path / "z.yaml").write_text(f"defaults: {defaults}\nteachers: [{teacher}]")
    with pytest.raises(UserError, match="z.yaml: defaults: architecture: a YAML alias stands for a collection that contains itself"):
        read_manifest(tmp_path / "z.yaml")


def test_depth_is_counted_exactly():
    check_bounded(nested(MAX_DEPTH))
    with pytest.raises(UserError, match=f"more than {MAX_DEPTH} levels"):
        check_bounded(nested(MAX_DEPTH + 1))


def test_shared_and_merged_values_are_read_as_usual(tmp_path):
    text = "base: &b {x: 1, y: [a, b]}\nother: {<<: *b, x: 2}\nlist: [*b, *b]\nmany: {<<: [{p: 1}, {p: 2, q: 3}]}\ndate: 2024-05-06\n"
    (tmp_path / "p.yaml").write_text(text)
    assert read_yaml(tmp_path / "p.yaml", "configuration") == yaml.safe_load(text)


def test_only_regular_files_of_bounded_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="^configuration: cannot read .*pipe: not a file"):
        load(tmp_path / "pipe")
    (tmp_path / "p.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(UserError, match=rf"p.yaml: {MAX_BYTES + 1} bytes; allowed: at most {MAX_BYTES}"):
        load(tmp_path / "p.yaml")


def test_the_loader_without_the_c_library_gives_the_same(tmp_path):
    (tmp_path / "p.yaml").write_text("a: [1, 2.5, yes, null, text, 2024-05-06]\n")
    code = (
        "import yaml; del yaml.CSafeLoader\n"
        "from datafree.config.bounded import _Loader, read_yaml\n"
        "assert issubclass(_Loader, yaml.SafeLoader)\n"
        f"print(read_yaml({str(tmp_path / 'p.yaml')!r}, 'configuration'))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == str(read_yaml(tmp_path / "p.yaml", "configuration"))
