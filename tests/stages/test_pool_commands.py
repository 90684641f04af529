"""``datafree pools`` on the pools of a tiny project."""

import csv

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from datafree.cli import app
from datafree.errors import UserError
from datafree.predict.pool_folders import folder_name, new_folder
from datafree.stages.files.image_sets import read_image_set
from datafree.stages.files.pools import read_pool


@pytest.fixture
def inside(project, monkeypatch):
    """The working folder is that of a project with pools of the method `five`."""
    project._pools("five")
    monkeypatch.chdir(project.root)
    return project


def run(*arguments):
    result = CliRunner().invoke(app, ["pools", *map(str, arguments)])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def width_of(path):
    with Image.open(path) as sheet:
        return sheet.width


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_pools_are_written_as_images_with_their_soft_labels(inside, tmp_path):
    result = run("export", "five", "--output", tmp_path / "out")
    assert "images of 3 teachers" in result.stderr
    for teacher in ("alpha", "beta", "gamma"):
        pool = read_pool(inside.outputs("invert", "five", teacher)["images"], inside.outputs("teacher", teacher)["card"])
        rows = rows_of(tmp_path / "out" / teacher / "soft_labels.csv")
        assert len(rows) == len(pool.labels)
        for row, image, label, soft in zip(rows, pool.images, pool.labels.tolist(), pool.soft_labels, strict=True):
            written = np.asarray(Image.open(tmp_path / "out" / teacher / row["file"]).convert("RGB"))
            assert np.array_equal(written, image.expand(3, -1, -1).permute(1, 2, 0).numpy())
            assert row["label"] == pool.classes[label]
            np.testing.assert_allclose([float(row[name]) for name in pool.classes], soft.float(), rtol=1e-5)
        assert width_of(tmp_path / "out" / teacher / "sheet.png") > 16
        assert len(list((tmp_path / "out" / teacher).glob("*-*/"))) == len(pool.classes)


def test_one_teacher_can_be_chosen(inside, tmp_path):
    run("export", "five", "--output", tmp_path / "out", "--teacher", "beta")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["beta"]


@pytest.fixture
def owner(inside, tmp_path):
    """The real training images of the project as folders."""
    data = read_image_set(inside.root / "artifacts/data/train.safetensors")
    for number, (image, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
        folder = tmp_path / "real" / data.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    return tmp_path / "real"


def test_recovered_images_are_compared_with_the_real_ones_of_the_teachers_classes(inside, owner, tmp_path):
    result = run("neighbours", "five", "--images", owner, "--output", tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "neighbours.csv")
    assert [row["teacher"] for row in rows] == ["alpha", "beta", "gamma"]
    classes = len(read_pool(inside.outputs("invert", "five", "alpha")["images"], inside.outputs("teacher", "alpha")["card"]).classes)
    assert int(rows[0]["real images"]) == 10 * classes
    assert all(float(row["median distance, grey levels"]) > 0 for row in rows)
    assert result.stderr.count("grey levels to the nearest real image") == 3
    assert all(width_of(tmp_path / "out" / f"{row['teacher']}.png") > 100 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "none"], "none is no inversion method with recovered pools in this project; allowed: five"),
        (["export", "five", "--teacher", "x"], "--teacher: x has no pool of five; allowed: alpha, beta, gamma"),
        (["neighbours", "five", "--images", "nowhere"], "nowhere: is not a folder"),
        (["neighbours", "five", "--images", "other"], "other: expected folders of the classes of alpha, such as real-.; found 0 images"),
    ],
)
def test_a_mistake_gives_one_line_and_leaves_nothing(inside, tmp_path, monkeypatch, arguments, message):
    for name in ("a", "b"):
        (tmp_path / "other" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "other" / name / "1.png")
    arguments = [str(tmp_path / part) if part in ("other", "nowhere") else part for part in arguments]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        run(*arguments, "--output", tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_exists_is_kept(inside, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="out exists; choose another folder, or remove it"):
        run("export", "five", "--output", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_path_that_is_too_long_gives_one_line(inside):
    for arguments in (["export", "five"], ["neighbours", "five", "--images", "x" * 300]):
        with pytest.raises(UserError, match="File name too long"):
            run(*arguments, "--output", "x" * 300)


def test_a_full_disk_gives_one_line_and_leaves_nothing(tmp_path, no_space):
    with pytest.raises(UserError, match="cannot write .*No space left on device"), new_folder(tmp_path / "out") as folder:
        (folder / "x").touch()
        raise no_space
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("a/b", "004-a_b"),
        ("..", "004-__"),
        ("猫 é", "004-猫_é"),
        ("x" * 300, "004-" + "x" * 80),
        ("", "004-"),
        ("𐐷" * 40, "004-" + "𐐷" * 20),
    ],
)
def test_a_class_name_gives_a_folder_name(name, folder):
    assert folder_name(4, name) == folder
