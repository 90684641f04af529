"""The wheel, installed without the packages of the workflow: datafree adapt, classify, card, export and the Python interface."""

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from datafree.predict.files import write_learner

PROJECT = Path(__file__).parents[2]
RUN = """
import datafree
assert "site-of-wheel" in datafree.__file__, datafree.__file__
from datafree.cli import main
main()
"""


def closure(names: set[str]) -> set[str]:
    """The distributions that these require, with themselves, in this environment."""
    found: set[str] = set()
    while names:
        name = names.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        parsed = map(Requirement, requirements)
        names |= {item.name for item in parsed if item.marker is None or item.marker.evaluate({"extra": ""})}
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The folder into which the wheel is installed, without its requirements."""
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"
    shutil.copytree(PROJECT / "src" / "datafree", source / "src" / "datafree", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    built = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(root), str(source)]
    subprocess.run(built, check=True, capture_output=True)
    (file,) = root.glob("datafree-*.whl")
    subprocess.run(
        [*pip, "install", "--quiet", "--no-deps", "--target", str(root / "site-of-wheel"), str(file)], check=True, capture_output=True
    )
    return root / "site-of-wheel"


@pytest.fixture(scope="module")
def required(wheel, tmp_path_factory) -> Path:
    """A folder with the packages that the wheel requires, and what these require, as links to those of this environment."""
    (info,) = wheel.glob("datafree-*.dist-info")
    items = [Requirement(line) for line in metadata.Distribution.at(info).requires or []]
    folder = tmp_path_factory.mktemp("required")
    for name in closure({item.name for item in items if item.marker is None}):
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(distribution.locate_file(top))
    assert (folder / "torch").is_dir()
    assert not any((folder / name).exists() for name in ("snakemake", "dvc", "mlflow", "onnx", "sklearn"))
    return folder


def test_the_commands_work_without_the_workflow(wheel, required, learner, photos, tmp_path):
    write_learner(tmp_path / "learner.safetensors", learner)

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": f"{wheel}{os.pathsep}{required}"}
        command = [sys.executable, "-S", "-P", "-W", "ignore", "-c", RUN, *map(str, arguments)]  # -S: without this environment's packages
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, encoding="utf-8")

    for arguments in (
        ["--help"],
        ["adapt", photos, "--learner", "learner.safetensors", "--output", "c.safetensors"],
        ["classify", "c.safetensors", photos, "--output", "labels.csv"],
        ["card", "c.safetensors"],
    ):
        result = run(*arguments)
        assert result.returncode == 0, result.stderr
    assert len((tmp_path / "labels.csv").read_text(encoding="utf-8").splitlines()) == 9
    refused = run("export", "c.safetensors", "--output", "c.onnx")
    assert refused.returncode == 2
    assert refused.stderr == "datafree: --format onnx: needs the package onnx; install it with `pip install 'datafree[export]'`\n"
