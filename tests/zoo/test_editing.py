import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafree.errors import UserError
from datafree.zoo.editing import add_entry
from datafree.zoo.manifest import read_manifest

PROJECT = Path(__file__).parents[2]
SPEC = {"name": "new", "file": "new.pth", "sha256": "ab" * 32, "architecture": {"name": "resnet20"}, "classes": ["x", "y: z", "ü"]}
FIRST = "name: a, file: a.pth, classes: [x, y]"

MANIFESTS = {
    "plain": f"teachers:\n  - {{{FIRST}}}\n",
    "no line end": f"teachers:\n  - {{{FIRST}}}",
    "not indented": f"teachers:\n- {{{FIRST}}}\n",
    "far indented": "teachers:\n      - name: a\n        file: a.pth\n        classes: [x, y]\n",
    "comments": "# a zoo\ndefaults: # of all\n  licence: CC0\n\n# the teachers\n"
    f"teachers: # in order\n  - {{{FIRST}}} # the first\n  # the end\n",
    "defaults last": f"teachers:\n  - {{{FIRST}}}\n\n# of all\ndefaults:\n  licence: CC0\n",
    "windows": f"defaults: {{licence: CC0}}\r\nteachers:\r\n  - {{{FIRST}}}\r\n",
    "end of document": f"---\nteachers:\n  - {{{FIRST}}}\n...\n",
    "quoted key": f'"teachers":\n  - {{{FIRST}}}\n',
    "long entry": "teachers:\n  - name: a\n    file: a.pth\n    classes:\n      - x\n      - y\n"
    "    licence: >\n      free\n\n      to use\n",
    "other letters": f"# Zoo für Vögel\nteachers:\n  - {{{FIRST}}}\n  - {{name: b, file: b.pth, classes: [ä, ö]}}\n",
}


@pytest.mark.parametrize("layout", MANIFESTS)
def test_an_entry_is_appended_and_every_other_line_is_kept(tmp_path, layout):
    path = tmp_path / "z.yaml"
    path.write_bytes(MANIFESTS[layout].encode())
    before = read_manifest(path)
    entry = add_entry(path, SPEC)
    assert read_manifest(path) == [*before, entry]
    assert (entry.name, entry.classes, entry.architecture.name) == ("new", ["x", "y: z", "ü"], "resnet20")
    old, new = MANIFESTS[layout].splitlines(), path.read_bytes().decode().splitlines()
    added = [line for line in new if line not in old]
    assert [line for line in new if line not in added] == old
    assert new.index(added[-1]) - new.index(added[0]) == len(added) - 1  # consecutive lines
    assert (b"\r\n" in path.read_bytes()) == (layout == "windows")
    assert sorted(tmp_path.iterdir()) == [path]
    if layout == "defaults last":
        assert new.index("# of all") == new.index("defaults:") - 1


def test_several_teachers_are_added_in_order(tmp_path):
    path = tmp_path / "zoos" / "z.yaml"
    for number in range(3):  # the first call creates the file
        add_entry(path, {"name": f"t{number}", "url": "https://x/y.pth", "sha256": "ab" * 32, "classes": ["x", "y"], "mean": [0.1] * 3})
    assert [entry.name for entry in read_manifest(path)] == ["t0", "t1", "t2"]


@pytest.mark.parametrize("path", sorted((PROJECT / "zoos").glob("*.yaml")), ids=lambda path: path.stem)
def test_teachers_can_be_added_to_the_manifests_of_the_project(tmp_path, path):
    shutil.copy(path, tmp_path)
    add_entry(tmp_path / path.name, SPEC)
    assert read_manifest(tmp_path / path.name)[:-1] == read_manifest(path)
    assert (tmp_path / path.name).read_text(encoding="utf-8").startswith(path.read_text(encoding="utf-8"))


BLOCK = "teachers:\n  - name: a\n    file: a.pth\n    classes: [x, y]\n    licence: |\n      free\n      # not a comment\n"


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        (MANIFESTS["plain"], {**SPEC, "name": "a"}, "z.yaml: the teacher name 'a' occurs 2 times"),
        (MANIFESTS["plain"], {**SPEC, "name": "a b"}, "z.yaml: a b: a name may hold"),
        (MANIFESTS["plain"], {**SPEC, "sha256": "x"}, "z.yaml: new: sha256: got 'x'"),
        (MANIFESTS["plain"], {**SPEC, "url": "https://x/y"}, "z.yaml: new: expected exactly one of"),
        (MANIFESTS["plain"], {**SPEC, "classes": ["x"]}, "z.yaml: new: classes: expected at least 2"),
        (f"teachers: [{{{FIRST}}}]\n", SPEC, "z.yaml: `teachers` is a list in brackets; write each teacher"),
        ("teachers: []\n", SPEC, "z.yaml: expected a mapping with a non-empty list"),
        ("teachers: [", SPEC, "z.yaml: not valid YAML"),
        (BLOCK, SPEC, "z.yaml: cannot append to this layout without changing other teachers"),
    ],
)
def test_an_invalid_entry_leaves_the_manifest_unchanged(tmp_path, text, spec, message):
    path = tmp_path / "z.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        add_entry(path, spec)
    assert "\n" not in str(caught.value) and ".part" not in str(caught.value)
    assert path.read_text() == text
    assert sorted(tmp_path.iterdir()) == [path]


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(st.lists(TEXTS, min_size=2, max_size=4, unique=True), TEXTS)
def test_any_text_is_read_back_unchanged(tmp_path_factory, classes, licence):
    path = tmp_path_factory.mktemp("editing") / "z.yaml"
    path.write_text(MANIFESTS["comments"])
    spec = {**SPEC, "classes": classes, "licence": licence}
    try:
        entry = add_entry(path, spec)
    except UserError as error:  # an interpolation, for example
        assert path.read_text() == MANIFESTS["comments"], error
    else:
        assert (entry.classes, entry.licence) == (classes, licence)
        assert read_manifest(path)[-1] == entry
