import hashlib
import json

import pytest
import torch
from typer.testing import CliRunner

from datafree.cli import app
from datafree.errors import UserError
from datafree.zoo.manifest import Architecture, Entry, read_manifest
from datafree.zoo.teachers import empty_network

ENTRY = Entry(architecture=Architecture("conv4", 8), input=[3, 16, 16])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command line in a folder with one sound and one untrained checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    (tmp_path / "weights").mkdir()
    for name in ("fresh", "good"):
        network = empty_network(ENTRY, 2, seed=1)
        if name == "good":
            with torch.no_grad():
                network.backbone.blocks[0].norm.weight.mul_(2)
                network.train()(torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
                network.head.weight.mul_(30)
        torch.save(network.state_dict(), tmp_path / "weights" / f"{name}.pth")

    def call(*arguments):
        result = CliRunner().invoke(app, ["zoo", *map(str, arguments)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


def add(run, name, *more):
    shape = ["--architecture", "conv4", "--width", "8", "--input", "3,16,16"]
    return run("add", "zoos/z.yaml", "--name", name, "--file", f"weights/{name}.pth", "--classes", "x, y", *shape, *more)


def test_an_added_teacher_can_be_listed_and_checked(run, tmp_path):
    add(run, "good", "--licence", "CC BY 4.0", "--mean", "0.1,0.2,0.3", "--std", "1,1,1")
    (entry,) = read_manifest("zoos/z.yaml")
    assert (entry.file, entry.classes, entry.input, entry.mean) == ("../weights/good.pth", ["x", "y"], [3, 16, 16], [0.1, 0.2, 0.3])
    assert entry.sha256 == hashlib.sha256((tmp_path / "weights/good.pth").read_bytes()).hexdigest()
    listed = run("list", "zoos/z.yaml").stdout
    for text in ("good", "../weights/good.pth", "conv4 8", "2", "CC BY 4.0"):
        assert text in listed
    checked = run("check", "zoos/z.yaml")
    assert checked.exit_code == 0, checked.output
    assert "sound" in checked.stdout and "conv4 8" in checked.stdout
    (report,) = json.loads(run("check", "zoos/z.yaml", "--json").stdout)["teachers"]
    assert (report["name"], report["state"], report["batch_norm_layers"]) == ("good", "sound", 4)


def test_a_broken_teacher_gives_one_line_and_exit_status_1(run):
    add(run, "good")
    add(run, "fresh")
    result = run("check", "zoos/z.yaml")
    assert result.exit_code == 1
    assert "broken" in result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("broken: ")]
    assert lines == ["broken: fresh: scale and shift of all 4 normalisation layers are as initialised: its weights were never trained"]
    parsed = json.loads(run("check", "zoos/z.yaml", "--json").stdout)
    assert parsed["broken"] == 1 and [teacher["state"] for teacher in parsed["teachers"]] == ["sound", "broken"]
    assert run("check", "zoos/z.yaml", "--limit", "1").exit_code == 0


def test_a_table_shows_brackets_unchanged(run):
    add(run, "good", "--licence", "[bold]mine[/bold] [x")
    assert "[bold]mine[/bold] [x" in run("list", "zoos/z.yaml").stdout
    assert json.loads(run("list", "zoos/z.yaml", "--json").stdout)[0]["licence"] == "[bold]mine[/bold] [x"


def test_other_sources_and_keys(run):
    digest = "ab" * 32
    run(
        "add",
        "z.yaml",
        "--name",
        "a",
        "--url",
        "https://x/y.pth",
        "--sha256",
        digest,
        "--classes",
        "x,y",
        "--key",
        "fc=head",
        "--key",
        "aux=",
    )
    run("add", "z.yaml", "--name", "b", "--torchvision", "ResNet18_Weights.IMAGENET1K_V1", "--architecture", "torchvision/resnet18")
    run("add", "z.yaml", "--name", "c", "--hub", "o/r/f.pth", "--sha256", digest, "--classes", "x,y")
    run("add", "z.yaml", "--name", "d", "--timm", "resnet18.a1_in1k", "--sha256", digest, "--classes", "x,y", "--width", "16")
    a, b, c, d = read_manifest("z.yaml")
    assert (a.url, a.keys, a.sha256) == ("https://x/y.pth", {"fc": "head", "aux": None}, digest)
    assert (b.torchvision, b.architecture.name, b.classes) == ("ResNet18_Weights.IMAGENET1K_V1", "torchvision/resnet18", [])
    assert (c.hub, d.timm, d.architecture.width) == ("o/r/f.pth", "resnet18.a1_in1k", 16)


def test_an_absolute_path_stays_absolute(run, tmp_path):
    run("add", "zoos/z.yaml", "--name", "good", "--file", tmp_path / "weights/good.pth", "--classes", "x,y")
    assert read_manifest("zoos/z.yaml")[0].file == str(tmp_path / "weights/good.pth")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--file", "absent.pth", "--classes", "x,y"], "absent.pth: the checkpoint is missing"),
        (["--file", "weights/good.pth", "--classes", "x,y", "--sha256", "0" * 64], "SHA-256 is .*, the manifest expects 000"),
        (["--file", "weights/good.pth", "--classes", "x"], "z.yaml: a: classes: expected at least 2"),
        (["--file", "weights/good.pth", "--classes", "x,y", "--input", "3,a"], "--input: got '3,a'; expected numbers separated by commas"),
        (["--file", "weights/good.pth", "--classes", "x,y", "--key", "fc"], "--key: got 'fc'; expected old=new"),
        (["--url", "https://x/y", "--classes", "x,y"], "z.yaml: a: sha256: missing"),
        (["--classes", "x,y"], "z.yaml: a: expected exactly one of"),
    ],
)
def test_an_invalid_option_leaves_no_manifest(run, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        run("add", "z.yaml", "--name", "a", *arguments)
    assert not (tmp_path / "z.yaml").exists()


def test_a_missing_manifest_is_a_user_error(run):
    for command in ("check", "list"):
        with pytest.raises(UserError, match="cannot read absent.yaml"):
            run(command, "absent.yaml")
