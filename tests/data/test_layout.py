import subprocess
import sys

import pytest

from datafree.data.layout import by_domain, class_files, of_domain
from datafree.errors import UserError


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_classes_and_files_are_sorted_and_other_files_are_skipped(tmp_path):
    touch(tmp_path, "train/b/2.png", "train/b/1", "train/a/x.JPG", "test/c/1.png")
    touch(tmp_path, "train/a/.hidden.png", "train/.cache/1.png", "train/classes.csv", "train/a/boxes.TXT", "notes.md")
    files = class_files(tmp_path, "train")
    assert {name: [path.name for path in paths] for name, paths in files.items()} == {"a": ["x.JPG"], "b": ["1", "2.png"]}
    assert list(files) == ["a", "b"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["test/a/1.png"], "data.folder: .* has no folder `train`"),
        (["train"], "data.folder: .* has no folder `train`"),
        (["train/a/1.png", "train/loose.png"], "train: expected at least 2 class folders, got 1"),
        (["train/.keep"], "train: expected at least 2 class folders, got 0"),
        (["train/a/1.png", "train/b/.keep", "train/b/note.txt"], "train/b: expected images of the class, found none"),
        (["train/a/1.png", "train/b/images/1.png"], "train/b/images: a folder inside a class"),
    ],
)
def test_an_invalid_layout_is_a_user_error(tmp_path, files, message):
    touch(tmp_path, *files)
    with pytest.raises(UserError, match=message):
        class_files(tmp_path, "train")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"data\.folder: .*/nowhere is not a folder"):
        class_files(tmp_path / "nowhere", "train")


def test_listing_the_files_imports_no_large_package():
    code = "import sys, datafree.data.layout; assert not {'torch', 'numpy', 'PIL', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_domain_of_a_class_is_the_part_of_its_name_before_the_first_dot():
    assert by_domain(["b.x", "a.y.z", "b.y"]) == {"a": [1], "b": [0, 2]}
    assert of_domain(["b.x", "a.y", "bx.y", "b"], "b") == [0]
    assert of_domain(["b.x", "a.y"], "") == [0, 1]
    assert of_domain(["b.x"], "c") == []


@pytest.mark.parametrize("name", ["plain", ".hidden", ""])
def test_a_class_without_a_domain_is_refused(name):
    with pytest.raises(UserError, match=f"class {name!r} has no domain"):
        by_domain(["a.x", name])
