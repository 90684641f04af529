"""DVC with the metrics, plots and remotes of this project, on files without a pipeline: what it compares, and what it exchanges."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from datafree import artifacts
from tests.workflow.conftest import ROOT, Made, Project

# A folder with `dvc-s3` and `moto[server]`, if they are not installed beside DVC: pip install --target FOLDER dvc-s3 "moto[server]"
S3_PACKAGES = os.environ.get("DATAFREE_S3_PACKAGES", "")
ADDRESS = "127.0.0.1"


@pytest.fixture
def project(once: Callable[[str, Callable[[Path], Made]], Project], tmp_path: Path) -> Project:
    return once("tracked files", track_files).copy(tmp_path / "project")


def track_files(folder: Path) -> Made:
    """Make a committed repository with the parameters, metrics and plots of this project, and one stage whose output is tracked."""
    folder.mkdir()
    for name in (".dvc/config", ".dvc/.gitignore", "params.yaml", ".dvc/plots/curves.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    ours = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    stage = {
        "cmd": f"{sys.executable} write.py",
        "params": list(yaml.safe_load((ROOT / "params.yaml").read_text())),
        "outs": [{"artifacts/report": {"persist": True}}],
        "metrics": ours["stages"]["evaluation"]["metrics"],
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"report": stage}, "plots": ours["plots"]}, sort_keys=False))
    (folder / ".gitignore").write_text("/artifacts/\n")
    (folder / "write.py").write_text(
        "import json, yaml\nfrom pathlib import Path\n"
        "episodes = yaml.safe_load(Path('params.yaml').read_text())['evaluation']['episodes']\n"
        "for name in ('artifacts/report', 'results'): Path(name).mkdir(parents=True, exist_ok=True)\n"
        "Path('results/metrics.json').write_text(json.dumps({'split': 'test', 'bell_5shot': episodes / 1000, 'best_teacher_5shot': 0.5}))\n"
        "rows = f'bell, 5-shot|arm|{episodes / 1000}|0.01\\nbest teacher, 5-shot|baseline|0.5|0.01\\n'.replace(',', '').replace('|', ',')\n"
        "Path('artifacts/report/accuracies.csv').write_text('name,kind,accuracy,interval\\n' + rows)\n"
        "Path('artifacts/report/curves.csv').write_text('learner,step,metric,value\\nbell seed0,1,loss,2\\nbell seed0,2,loss,1\\n')\n"
    )
    made = Project(folder)
    made.run("git", "init", "--quiet", "--initial-branch", "main")
    made.run("git", "config", "user.name", "t")
    made.run("git", "config", "user.email", "t@example.org")
    made.run("dvc", "repro")
    made.commit("600 episodes")
    return set(), ""


def test_experiments_metrics_and_plots_are_compared_by_a_few_readable_numbers(project: Project) -> None:
    project.run("dvc", "exp", "run", "--name", "more", "-S", "evaluation.episodes=800")
    table = project.run("dvc", "exp", "show", "--only-changed", "--md").stdout.splitlines()
    header = [cell.strip() for cell in table[0].strip("|").split("|")]
    assert [name for name in header if name not in ("", "Experiment", "Created")] == ["bell_5shot", "evaluation.episodes"]
    assert max(map(len, table)) < 100
    assert any("more" in line and "0.8" in line and "800" in line for line in table)

    diff = json.loads(project.run("dvc", "metrics", "diff", "--json").stdout)["results/metrics.json"]
    assert diff == {"bell_5shot": {"old": 0.6, "new": 0.8, "diff": pytest.approx(0.2)}}

    plots = json.loads(project.run("dvc", "plots", "diff", "HEAD", "--json").stdout)
    assert not plots.get("errors")
    assert set(plots["data"]) == {"few-shot accuracy", "training curves"}
    bars = vega(plots, "few-shot accuracy")
    assert {(row["rev"], row["name"], row["accuracy"]) for row in bars["data"]["values"] if row["kind"] == "arm"} == {
        ("HEAD", "bell 5-shot", "0.6"),
        ("workspace", "bell 5-shot", "0.8"),
    }
    curves = vega(plots, "training curves")
    assert curves["spec"]["encoding"]["y"]["field"] == "value"
    assert {row["learner"] for row in curves["data"]["values"]} == {"bell seed0"}
    assert "DVC_METRIC" not in json.dumps(curves)


def vega(plots: dict, name: str) -> dict:
    content = plots["data"][name][0]["content"]
    return json.loads(content) if isinstance(content, str) else content


def test_a_preset_is_applied_by_one_command(project: Project) -> None:
    preset = project.folder / "quick.yaml"
    preset.write_text("evaluation: {episodes: 50}\n")
    command = [sys.executable, "-m", "datafree.cli", "config", "params.yaml", "quick.yaml", "--output", "params.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    project.run("dvc", "repro")
    assert artifacts.read_json(project.folder / "results/metrics.json")["bell_5shot"] == 0.05


def exchange(project: Project, clone: Path) -> None:
    """Push from the project, pull into a clone."""
    project.run("dvc", "push")
    project.commit("remote")
    copy = project.clone(clone)
    copy.run("dvc", "pull")
    for name in ("accuracies.csv", "curves.csv"):
        assert (copy.folder / "artifacts/report" / name).read_bytes() == (project.folder / "artifacts/report" / name).read_bytes()
    assert "up to date" in copy.run("dvc", "status").stdout


def test_results_go_through_a_folder(project: Project, tmp_path: Path) -> None:
    project.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    exchange(project, tmp_path / "clone")


def listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((ADDRESS, port)) == 0


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server with the bucket `results`; its keys are in the environment."""
    environment = {**os.environ, "PYTHONPATH": S3_PACKAGES}
    check = [sys.executable, "-c", "import dvc_s3, moto.server, flask_cors"]
    if subprocess.run(check, env=environment, capture_output=True, check=False).returncode:
        pytest.skip('needs pip install --target FOLDER dvc-s3 "moto[server]", and DATAFREE_S3_PACKAGES=FOLDER')
    with socket.socket() as free:
        free.bind((ADDRESS, 0))
        port = free.getsockname()[1]
    for name, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
        environment[name] = value
    command = [sys.executable, "-m", "moto.server", "-H", ADDRESS, "-p", str(port)]
    with (tmp_path / "moto.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while not listens(port):
            assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "moto.log").read_text()
            time.sleep(0.2)
        bucket = "import boto3, sys; boto3.client('s3', endpoint_url=sys.argv[1]).create_bucket(Bucket='results')"
        subprocess.run([sys.executable, "-c", bucket, f"http://{ADDRESS}:{port}"], env=environment, check=True)
        yield f"http://{ADDRESS}:{port}"
    finally:
        server.kill()
        server.wait()


def test_results_go_through_a_bucket(project: Project, tmp_path: Path, s3: str) -> None:
    if S3_PACKAGES:
        (project.folder / "src").symlink_to(S3_PACKAGES)  # `Project.run` and that of the clone import from there
    project.run("dvc", "remote", "add", "--default", "store", "s3://results/study")
    project.run("dvc", "remote", "modify", "store", "endpointurl", s3)
    exchange(project, tmp_path / "clone")
