import os
import subprocess
import sys
from pathlib import Path

import pytest

from datafree.config import load, merge, resolve
from datafree.errors import UserError
from datafree.workflow import hardware, preflight
from datafree.zoo.manifest import read_manifest

PROJECT = Path(__file__).parents[2]
MANIFEST = """
teachers:
  - {name: one, train: {classes: 6}}
  - {name: two, train: {classes: 5, seed: 1}}
  - {name: three, file: three.pth, classes: [a, b, c, d, e, f]}
"""
SMALL = {
    "zoo": {"manifest": "zoos/z.yaml"},
    "data": {"glyphs": {"classes": {"train": 20, "validation": 10, "test": 10}, "images_per_class": {"test": 20}}},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoos").mkdir()
    (tmp_path / "zoos" / "z.yaml").write_text(MANIFEST)
    (tmp_path / "zoos" / "three.pth").write_bytes(b"weights")
    return tmp_path


def check(project, **overlay):
    return preflight.check(resolve(merge(SMALL, overlay)), project)


def test_teachers_are_in_the_order_of_the_manifest(project):
    assert [entry.name for entry in check(project)] == ["one", "two", "three"]
    assert [entry.name for entry in check(project, zoo={"manifest": "zoos/z.yaml", "limit": 2})] == ["one", "two"]
    assert list(project.iterdir()) == [project / "zoos"]  # no file is written


def test_views_may_take_any_space_if_nothing_reads_them(project):
    arms, algorithms = {"distillation": {"views": "fresh"}, "bell": {"views": "fresh"}}, {"spos": {"views": "fresh"}}
    assert check(project, reinforcement={"megabytes": 1}, meta={"arms": arms}, nas={"algorithms": algorithms})


def test_networks_of_a_library_have_their_names_there(project):
    (project / "zoos" / "z.yaml").write_text(
        MANIFEST + "  - {name: four, train: {classes: 5}, architecture: {name: torchvision/resnet18}}\n"
    )
    backbone = {"name": "torchvision/mobilenet_v3_small"}
    teachers = check(project, meta={"arms": {"a": {"method": "distillation", "backbone": backbone}}})
    assert teachers[3].architecture.name == "torchvision/resnet18"


def test_a_relative_manifest_path_is_relative_to_the_snakefile(project, monkeypatch):
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    assert len(check(project)) == 3


@pytest.mark.parametrize("preset", [None, *sorted((PROJECT / "presets").glob("*.yaml"))], ids=str)
def test_params_yaml_passes(tmp_path, monkeypatch, preset, presets_below):
    monkeypatch.chdir(tmp_path)
    config = load(PROJECT / "params.yaml", *([*presets_below(preset), preset] if preset else []))
    if not (PROJECT / config.zoo.manifest).exists():  # the manifest of a user's zoo
        config.zoo.manifest = "zoos/cifar-fs.yaml"
    if config.data.folder:
        images = max(config.evaluation.shots) + config.evaluation.query
        domains = sorted({entry.train.domain for entry in read_manifest(PROJECT / config.zoo.manifest) if entry.train})
        for domain in domains:
            config.data.folder = str(photos(tmp_path, config.evaluation.way, images, f"{domain}." if domain else ""))
    assert preflight.check(config, PROJECT)


def photos(folder, classes: int, images: int, prefix: str = "") -> Path:
    for split in ("train", "validation", "test"):
        for number in range(classes):
            path = folder / "photos" / split / f"{prefix}{split}-{number}"
            path.mkdir(parents=True)
            for image in range(images):
                (path / f"{image}.png").touch()
    return folder / "photos"


GLYPHS = SMALL["data"]["glyphs"]


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"zoo": {"manifest": "zoos/absent.yaml"}}, "zoo.manifest: cannot read .*absent.yaml: No such file"),
        ({"tasks": {"way": 6}}, "tasks.way: got 6; allowed: at most 5, the classes of teacher two"),
        ({"tasks": {"shot": 51, "query": 10}}, "tasks.query: 10 and 51 shots .* inversion.images_per_class = 30"),
        (
            {"data": {"glyphs": {**GLYPHS, "classes": {"train": 5, "validation": 10, "test": 10}}}},
            "zoo.manifest: one: train.classes is 6; allowed: at most data.glyphs.classes.train = 5",
        ),
        (
            {"nas": {"algorithms": {"spos": {"max_macs": 9}}}},
            "nas.algorithms.spos.max_macs: got 9; the smallest architecture of nasbench201 needs [0-9]+ with",
        ),
        (
            {"meta": {"arms": {"bell": {"backbone": {"name": "nasbench201", "genotype": "|x~0|"}}}}},
            "meta.arms.bell.backbone.genotype: expected the form",
        ),
        (
            {"meta": {"arms": {"a": {"method": "bell", "backbone": {"name": "nasbench201"}}}}},
            "meta.arms.a.backbone.genotype: got null; give",
        ),
        (
            {"meta": {"arms": {"a": {"method": "bell", "backbone": {"name": "vgg"}}}}},
            "meta.arms.a.backbone.name: got 'vgg'; .*conv4.*darts",
        ),
        ({"backbone": {"name": "vgg"}}, "backbone.name: got 'vgg'; allowed: .*conv4"),
        ({"backbone": {"cells": 2}}, "backbone.cells: got 2, which has no effect with name: conv4_strided; leave it out, or set it to 1"),
        (
            {"meta": {"arms": {"a": {"method": "bell", "backbone": {"genotype": "searched"}}}}},
            "meta.arms.a.backbone.genotype: got .searched., which has no effect with name: conv4_strided; leave it out, or set it to null",
        ),
        (
            {"meta": {"arms": {"a": {"method": "distillation", "start": "four"}}}},
            "meta.arms.a.start: got 'four'; allowed: null, auto, or a teacher, such as one",
        ),
        (
            {"reinforcement": {"megabytes": 6}},
            "reinforcement.megabytes: got 6; 2040 views of 32 pixels with predictions of 17 classes take 9; raise it, or lower views",
        ),
        ({"evaluation": {"oracle_backbone": {"name": "vgg"}}}, "evaluation.oracle_backbone.name: got 'vgg'; allowed: .*conv4"),
        ({"nas": {"algorithms": {"spos": {"space": "trees"}}}}, "nas.algorithms.spos.space: got 'trees'; allowed: nasbench201, darts"),
        (
            {"meta": {"arms": {"fused": {"method": "dro", "backbone": {"width": 16}}}}},
            "meta.arms.fused.backbone: got conv4_strided of width 16; allowed: the architecture of every teacher, but .* is conv4 of width",
        ),
    ],
)
def test_an_impossible_setting_is_refused_before_the_first_job(project, overlay, message):
    with pytest.raises(UserError, match=f"^{message}") as caught:
        check(project, **overlay)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("{name: x, file: absent.pth, classes: [a, b, c, d, e]}", "x: file: .*absent.pth does not exist; correct the path"),
        (
            "{name: x, file: three.pth, classes: [a, b, c, d, e], input: [2, 32, 32], mean: [0, 0], std: [1, 1]}",
            "x: input is .2, 32, 32.; allowed: images of 1 or 3 channels",
        ),
        ("{name: x, train: {classes: 5}, architecture: {name: vgg}}", "x: architecture.name: got 'vgg'; allowed: .*conv4"),
        ("{name: x, train: {classes: 5}, architecture: {name: nasbench201}}", "x: architecture.name: got 'nasbench201'; allowed: .*conv4"),
    ],
)
def test_an_impossible_teacher_is_refused_before_the_first_job(project, teacher, message):
    manifest = project / "zoos" / "z.yaml"
    manifest.write_text(MANIFEST + f"  - {teacher}\n")
    with pytest.raises(UserError, match=message):
        check(project)


def test_image_sizes_that_are_no_multiple_of_8_are_refused_before_the_first_job(project):
    manifest = project / "zoos" / "z.yaml"
    manifest.write_text("defaults: {input: [3, 20, 20]}\n" + MANIFEST)
    with pytest.raises(UserError, match="^data.image_size: got 20; .*multiple of 8"):
        check(project, data={"image_size": 20, "glyphs": GLYPHS})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "test").rename(folder / "tests"), "has no folder `test`"),
        (
            lambda folder: (folder / "train" / "train-0").rename(folder / "train" / ".hidden"),
            "zoo.manifest: one: train.classes is 6; allowed: at most 5, the classes of train",
        ),
        (lambda folder: (folder / "train" / "notes.txt").touch(), None),
        (lambda folder: [path.unlink() for path in (folder / "test" / "test-1").iterdir()], "test-1: expected images of the class"),
        (
            lambda folder: (folder / "test" / "test-1" / "0.png").unlink(),
            "evaluation.query: 15 and 5 shots need more images than class test-1 of test has, 19",
        ),
        (lambda folder: (folder / "test" / "test-1").rename(folder / "train" / "test-1"), "evaluation.way: got 6; allowed: at most 5"),
    ],
)
def test_a_folder_of_images_is_checked_before_the_first_job(project, change, message):
    folder = photos(project, 6, 20)
    change(folder)
    data = {"source": "folder", "folder": str(folder)}
    if message is None:
        assert check(project, data=data, evaluation={"split": "test", "way": 6})
    else:
        with pytest.raises(UserError, match=message):
            check(project, data=data, evaluation={"split": "test", "way": 6})


def test_a_tilde_stands_for_the_home_folder(project, monkeypatch):
    photos(project, 6, 20)
    monkeypatch.setenv("HOME", str(project))
    assert check(project, data={"source": "folder", "folder": "~/photos"})


@pytest.mark.parametrize("name", ["artifacts", "logs", ".datafree"])
def test_a_file_where_a_folder_of_results_should_be_is_refused(project, name):
    (project / name).touch()
    with pytest.raises(UserError, match=rf"{name}: cannot write here; change its permissions, or run in another folder"):
        check(project)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_to_write_is_refused(project):
    project.chmod(0o555)
    try:
        with pytest.raises(UserError, match="cannot write here"):
            check(project)
    finally:
        project.chmod(0o755)


def test_a_folder_that_os_access_reports_as_unwritable_is_refused(project, monkeypatch):
    monkeypatch.setattr(preflight.os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="cannot write here"):
        check(project)


def test_resolved_hardware_replaces_auto_in_the_configuration(monkeypatch):
    monkeypatch.setattr(
        hardware, "resolve", lambda device, precision, accept: hardware.Hardware("cuda", f"{device} {precision}", "bfloat16")
    )
    config = resolve({})
    assert preflight.resolve_hardware(config).processor == "auto auto"
    assert (config.device, config.precision.value) == ("cuda", "bfloat16")


def test_pytorch_is_not_imported(project):
    script = """
import sys
from pathlib import Path
from datafree.workflow import preflight
from datafree.config import load
config = load(sys.argv[1])
preflight.check(config, Path(sys.argv[1]).parent)
preflight.resolve_hardware(config)
assert not {"torch", "matplotlib", "scipy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script, PROJECT / "params.yaml"], check=True, cwd=project)


def test_every_domain_of_the_evaluation_needs_enough_classes(project):
    folder = photos(project, 8, 20)
    data = {"source": "folder", "folder": str(folder)}
    with pytest.raises(UserError, match="class 'test-0' has no domain"):
        check(project, data=data, evaluation={"split": "test", "by_domain": True})
    for place, path in enumerate(sorted((folder / "test").iterdir())):
        path.rename(path.with_name(f"{'odd' if place > 4 else 'even'}.{place}"))
    with pytest.raises(UserError, match="evaluation.way: got 5; allowed: at most 3, the classes of test in odd"):
        check(project, data=data, evaluation={"split": "test", "by_domain": True})
    assert check(project, data=data, evaluation={"split": "test", "by_domain": True, "way": 3})


def test_a_teacher_of_one_domain_needs_enough_classes_of_it(project):
    folder = photos(project, 8, 20)
    for place, path in enumerate(sorted((folder / "train").iterdir())):
        path.rename(path.with_name(f"{'odd' if place > 4 else 'even'}.{place}"))
    manifest = project / "zoos" / "z.yaml"
    data = {"source": "folder", "folder": str(folder)}
    manifest.write_text(MANIFEST + "  - {name: x, train: {classes: 5, domain: even}}\n")
    assert check(project, data=data)
    manifest.write_text(MANIFEST + "  - {name: x, train: {classes: 5, domain: odd}}\n")
    with pytest.raises(UserError, match="x: train.classes is 5; allowed: at most 3, the classes of odd"):
        check(project, data=data)
