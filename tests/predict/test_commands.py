"""``datafree adapt`` and ``datafree classify`` as commands."""

import csv
import io
import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from datafree import predict_cli
from datafree.cli import app
from datafree.errors import UserError
from datafree.predict import files
from datafree.predict.files import read_classifier, write_learner
from datafree.predict.network import TrainedLearner


@pytest.fixture
def project(tmp_path, monkeypatch, learner):
    """A folder with the file of a learner."""
    monkeypatch.chdir(tmp_path)
    write_learner(tmp_path / "learner.safetensors", learner)
    return tmp_path


def run(*arguments, **options):
    """The result of a command; a mistake of the user is raised."""
    result = CliRunner().invoke(app, list(map(str, arguments)), **options)
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def adapted(photos, *options):
    result = run("adapt", photos, "--learner", "learner.safetensors", "--output", "c.safetensors", *options)
    assert result.exit_code == 0
    return result


def test_adapt_writes_a_classifier_of_the_folders(project, photos):
    result = adapted(photos)
    learner, classifier, classes = read_classifier(project / "c.safetensors")
    assert classes == ["<b>bee", "ärger", "猫"]
    assert classifier.labels.bincount().tolist() == [3, 1, 4]
    assert learner.card["arm"] == "distillation"
    assert (
        "c.safetensors: 3 classes of 1 to 4 images each, by distillation; `none of these` for images less similar than 95 % of"
        in result.stderr
    )
    assert "every image gets a class" in adapted(photos, "--reject", "0").stderr


def test_classify_labels_the_images_of_a_folder(project, photos):
    adapted(photos)
    result = run("classify", "c.safetensors", photos)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert len(rows) == 8
    right = sum(row["image"].split("/")[-2] == row["nearest"] for row in rows)
    assert right >= 6
    lines = run("classify", "c.safetensors", photos, "--format", "jsonl", "--all").stdout.splitlines()
    assert [json.loads(line)["nearest"] for line in lines] == [row["nearest"] for row in rows]
    assert all(sum(json.loads(line)["probabilities"].values()) == pytest.approx(1, abs=1e-5) for line in lines)


def test_classify_writes_a_file_and_reads_standard_input(project, photos):
    adapted(photos)
    paths = sorted(map(str, photos.rglob("*.png")))
    run("classify", "c.safetensors", "-", "--output", "out/labels.csv", input="\n".join(paths))
    rows = list(csv.DictReader(io.StringIO((project / "out/labels.csv").read_text(encoding="utf-8"))))
    assert [row["image"] for row in rows] == paths
    result = run("classify", "c.safetensors", "-", input=Path(paths[0]).read_bytes())
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    assert row["image"] == "standard input"


def test_an_unreadable_image_costs_only_itself(project, photos):
    adapted(photos)
    (photos / "猫" / "bad.png").write_bytes(b"nothing")
    result = run("classify", "c.safetensors", photos)
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 9
    assert "bad.png: cannot be read as an image" in result.stderr


def test_photos_of_any_kind_are_learned(project, photos):
    """Animated, CMYK, grey, transparent, 16-bit and rotated images."""
    folder = photos / "猫"
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    Image.new("CMYK", (50, 40)).save(folder / "cmyk.jpg")
    Image.new("I;16", (10, 30)).save(folder / "deep.png")
    Image.new("RGBA", (1, 1)).save(folder / "one-pixel.webp")
    adapted(photos)
    assert read_classifier(project / "c.safetensors")[1].labels.bincount().tolist() == [3, 1, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adapt", "nowhere", "--output", "c.safetensors"], "nowhere: is not a folder"),
        (["adapt", "photos", "--output", "c.pth"], "--output: got c.pth; expected a name that ends in .safetensors"),
        (
            ["adapt", "photos", "--output", "c.safetensors"],
            "found no comparison of the networks of a project, artifacts/",
        ),
        (["adapt", "photos", "--output", "c.safetensors", "--learner", "bell"], "bell is no learner's file and no trained arm"),
        (
            ["adapt", "photos", "--output", "c.safetensors", "--backbone", "t1"],
            "t1 is no teacher of this project; allowed: none",
        ),
        (["adapt", "photos", "--output", "c.safetensors", "--backbone", "t", "--learner", "l"], "expected at most one of them, got both"),
        (
            ["adapt", "photos", "--output", "c.safetensors", "--learner", "l", "--max-parameters", "9"],
            "--max-parameters, --max-macs, --max-latency: choose among all networks",
        ),
        (["adapt", "photos", "--output", "c.safetensors", "--reject", "1"], "--reject: got 1.0; allowed: at least 0 and less than 1"),
        (["classify", "learner.safetensors", "photos"], "learner.safetensors: expected a classifier, as `datafree adapt` writes it"),
        (["classify", "none.safetensors", "photos"], "none.safetensors: no such file; expected a classifier"),
        (["classify", "learner.safetensors", "photos", "--format", "xml"], "--format: got xml; allowed: table, csv, jsonl"),
    ],
)
def test_a_mistake_gives_one_line_and_writes_nothing(project, photos, arguments, message):
    before = sorted(project.rglob("*"))
    with pytest.raises(UserError, match=message):
        run(*arguments)
    assert sorted(project.rglob("*")) == before


def bomb(folder):
    Image.new("1", (14_000, 14_000)).save(folder / "bomb.png")  # more pixels than Pillow opens


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder.parent / "empty").mkdir(), "empty: expected images of the class, found none"),
        (lambda folder: (folder / "inner").mkdir(), "inner: a folder inside a class"),
        (lambda folder: (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff nothing"), "bad.jpg: cannot be read as an image"),
        (lambda folder: (folder / "empty.png").touch(), "empty.png: cannot be read as an image"),
        (bomb, "bomb.png: cannot be read as an image"),
    ],
    ids=["no image", "nested", "damaged", "no bytes", "bomb"],
)
def test_a_folder_that_cannot_be_learned_gives_one_line_and_keeps_the_old_file(project, photos, change, message):
    adapted(photos)
    before = (project / "c.safetensors").read_bytes()
    change(photos / "猫")
    with pytest.raises(UserError, match=message):
        run("adapt", photos, "--learner", "learner.safetensors", "--output", "c.safetensors")
    assert (project / "c.safetensors").read_bytes() == before


def test_one_class_too_many_classes_and_too_many_images_give_one_line(project, photos, monkeypatch):
    monkeypatch.setattr(predict_cli, "MOST_CLASSES", 2)
    with pytest.raises(UserError, match="photos: 3 classes; allowed: at most 2"):
        adapted(photos)
    monkeypatch.setattr(predict_cli, "MOST_CLASSES", 3)
    monkeypatch.setattr(predict_cli, "MOST_IMAGES", 3)
    with pytest.raises(UserError, match="猫: 4 images; allowed: at most 3"):
        adapted(photos)
    for name in ("ärger", "猫"):
        (photos / name).rename(project / name)
    with pytest.raises(UserError, match="photos: expected at least 2 class folders, got 1"):
        adapted(photos)


def test_a_learner_of_another_version_gives_one_line(project, photos, learner, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr(files, "VERSION", 9)
        write_learner(project / "new.safetensors", learner)
    with pytest.raises(UserError, match="new.safetensors: is of version 9, this datafree reads version 1"):
        run("adapt", photos, "--learner", "new.safetensors", "--output", "c.safetensors")


def test_a_place_that_cannot_be_written_gives_one_line(project, photos, no_space, monkeypatch):
    (project / "taken.safetensors").mkdir()
    with pytest.raises(UserError, match=r"taken.safetensors: cannot be written \(Is a directory\); choose another place"):
        run("adapt", photos, "--learner", "learner.safetensors", "--output", "taken.safetensors")
    adapted(photos)

    def full(*arguments):
        raise no_space

    monkeypatch.setattr("datafree.artifacts.write_text", full)
    with pytest.raises(UserError, match="No space left on device; check the path, its permissions and the room on the disk"):
        run("classify", "c.safetensors", photos, "--output", "labels.csv")


@pytest.mark.parametrize(
    "arguments",
    [
        ["adapt", "photos", "--learner", "learner.safetensors", "--output", "learner.safetensors"],
        ["classify", "c.safetensors", "photos", "--output", "c.safetensors"],
        ["classify", "c.safetensors", "photos", "--output", "photos/猫/10.png"],
        ["export", "c.safetensors", "--output", "c.safetensors"],
        ["card", "c.safetensors", "--output", "c.safetensors"],
    ],
)
def test_an_output_that_is_an_input_is_refused(project, photos, arguments):
    adapted(photos)
    (photos / "猫" / "11.png").rename(photos / "猫" / "10.png")
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="is also an input, which would be lost; choose another name"):
        run(*arguments)
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_images_that_are_not_there_cost_only_themselves(project, photos):
    adapted(photos)
    result = run("classify", "c.safetensors", "nowhere.png", next(photos.rglob("*.png")), "x" * 300)
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 2
    assert "nowhere.png: no such file; expected an image or a folder of images" in result.stderr


def test_names_that_are_not_utf_8_are_written_as_bytes(project, photos):
    adapted(photos)
    weird = project / "weird"
    weird.mkdir()
    next(photos.rglob("*.png")).rename(os.fsdecode(os.fsencode(weird) + b"/\xff.png"))
    assert "weird/\\xff.png" in run("classify", "c.safetensors", "weird").stdout
    (photos / "猫").rename(os.fsdecode(os.fsencode(photos) + b"/\xff"))
    with pytest.raises(UserError, match="expected at least one character, and no control characters"):
        adapted(photos)


@pytest.mark.parametrize(
    ("name", "message"),
    [("none of these", "a class is named `none of these`, which is the label of"), ("a\x1b[31m", "no control characters")],
)
def test_a_class_name_that_could_be_mistaken_is_refused(project, photos, name, message):
    (photos / "猫").rename(photos / name)
    with pytest.raises(UserError, match=message) as error:
        adapted(photos)
    assert "\x1b" not in str(error.value)


def test_what_is_no_file_in_a_class_folder_gives_one_line(project, photos):
    os.mkfifo(photos / "猫" / "pipe.png")
    with pytest.raises(UserError, match="pipe.png: is no regular file, or a link to none; remove it"):
        adapted(photos)


def test_a_path_that_is_too_long_gives_one_line(project, photos):
    for arguments in (["adapt", "x" * 300, "--output", "c.safetensors"], ["classify", "x" * 300, str(photos)], ["card", "x" * 300]):
        with pytest.raises(UserError, match="File name too long"):
            run(*arguments)


def test_a_model_card_beside_a_learner_does_not_hide_it(project, photos):
    run("card", "learner.safetensors", "--json", "--output", "card.json")
    adapted(photos)
    assert run("card", "c.safetensors").exit_code == 0


@pytest.mark.parametrize("damage", [{"arm": 5, "accuracy": "99"}, {"teachers": ["x"]}, {"accuracy": {"way": 5}}, {"parameters": "many"}])
def test_a_damaged_card_gives_one_line(project, learner, damage):
    write_learner(project / "d.safetensors", TrainedLearner(learner.network, learner.negatives, {**learner.card, **damage}))
    with pytest.raises(UserError, match="d.safetensors: its card is damaged"):
        run("card", "d.safetensors")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("c.safetensors", "c.onnx"),
        ("learner.safetensors", "c.pt2"),
        ("c.safetensors", "l.safetensors"),
        ("learner.safetensors", "l.safetensors"),
    ],
)
def test_a_classifier_and_a_learner_are_exported(project, photos, source, name):
    adapted(photos)
    result = run("export", source, "--output", name)
    assert (project / name).stat().st_size > 1000
    kind = "a classifier of 3 classes" if name == "c.onnx" else "a feature extractor"
    assert f"{name}: {kind} for images of 16 pixels" in result.stderr
    if name == "l.safetensors":
        assert run("adapt", photos, "--learner", name, "--output", "again.safetensors").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["learner.safetensors", "--output", "x.bin"], "--format: got x.bin; allowed: onnx, torch, safetensors, or a file name"),
        (["learner.safetensors", "--output", "x.onnx", "--format", "tflite"], "--format: got tflite; allowed: onnx, torch, safetensors"),
        (["learner.safetensors", "--output", "x.onnx", "--format", "torch"], "--output: got x.onnx; expected a name that ends in .pt2"),
        (["learner.safetensors", "--output", "x.pt2", "--int8"], "--int8: got the format torch; allowed: onnx"),
        (["learner.safetensors", "--output", "x.onnx", "--int8"], "--int8: needs recovered images, found none in artifacts/inversion"),
        (["nothing", "--output", "x.onnx"], "nothing is no learner's file and no trained arm"),
        (["nothing", "--backbone", "--output", "x.onnx"], "nothing is no teacher of this project"),
        (["none.safetensors", "--output", "x.onnx"], "none.safetensors: no such file"),
        (["bad.safetensors", "--output", "x.onnx"], "bad.safetensors: expected a learner or a classifier; the file is not readable"),
    ],
)
def test_a_mistake_in_an_export_gives_one_line_and_writes_nothing(project, arguments, message):
    (project / "bad.safetensors").write_bytes(b"bad")
    before = sorted(project.rglob("*"))
    with pytest.raises(UserError, match=message):
        run("export", *arguments)
    assert sorted(project.rglob("*")) == before


def test_the_model_card_is_printed_and_written(project, photos):
    adapted(photos)
    text = run("card", "c.safetensors").stdout
    assert text.startswith("# distillation\n")
    assert json.loads(run("card", "learner.safetensors", "--json").stdout)["name"] == "distillation"
    run("card", "learner.safetensors", "--output", "card.md")
    assert (project / "card.md").read_text(encoding="utf-8") == text
    with pytest.raises(UserError, match="unknown is no teacher"):
        run("card", "unknown", "--backbone")


def test_the_demo_serves_the_named_learners(project, monkeypatch):
    served = []
    monkeypatch.setattr("datafree.predict.demo.server.serve", lambda networks, port: served.append((list(networks), port)))
    run("demo", "--learner", "learner.safetensors", "--port", "0")
    assert served == [(["learner.safetensors"], 0)]
    with pytest.raises(UserError, match="found no comparison of the networks"):
        run("demo")
    monkeypatch.setitem(sys.modules, "flask", None)
    with pytest.raises(UserError, match=r"demo: needs the package flask; install it with `pip install 'datafree\[demo\]'`"):
        run("demo")


def test_without_the_package_that_quantises_one_line_names_it(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"--int8: needs the package onnxruntime; install it with `pip install 'datafree\[export\]'`"):
        run("export", "learner.safetensors", "--output", "x.onnx", "--int8")
