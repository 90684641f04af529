"""Cost of following a pipeline with MLflow: CPU and memory of the tracking process in a generated project of many finished jobs.

    python benchmarks/tracking_cost.py /tmp/tracking --jobs 3000 --minutes 2

Writes the records, metrics and previews of ``--jobs`` recovered pools to the folder, which is kept and extended by later calls. Logs them
with ``log_all``, then follows for ``--minutes`` while one job finishes every ``--every`` seconds. Prints CPU seconds and peak memory of
the three parts: logging the whole project, the first pass of the follower, and each further minute of following.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from datafree import artifacts
from datafree.errors import exit_on_user_error

CONFIG = {
    "seed": 0,
    "inversion": {"images_per_class": 64, "methods": {"five": {"steps": 5, "batch_size": 64, "learning_rate": 0.1}}},
    "tracking": {"enabled": True, "experiment": "cost"},
}
CALL = """
import json, sys
from pathlib import Path
from datafree.workflow import tracking
getattr(tracking, sys.argv[1])(Path.cwd(), json.loads(sys.argv[2]), "cost")
"""


def finish_job(project: Path, number: int) -> None:
    """Write the outputs and the record of one recovered pool."""
    folder = Path(f"artifacts/inversion/five/teacher-{number:05}")
    artifacts.write_json(project / folder / "metrics.json", {f"metric_{index}": number / (index + 1) for index in range(8)})
    artifacts.write_text(project / folder / "images.safetensors", "images")
    artifacts.write_text(project / folder / "preview.png", f"image {number}" * 500)
    outputs = [str(folder / name) for name in ("images.safetensors", "metrics.json", "preview.png")]
    record = {
        "stage": "invert",
        "wildcards": {"method": "five", "teacher": folder.name},
        "config": {"seed": 0, "inversion.methods.five": CONFIG["inversion"]["methods"]["five"]},
        "code": {"modules": ["datafree.stages.invert"], "hash": "0" * 16},
        "inputs": {f"artifacts/zoo/teacher-{index:05}/card.json": "0" * 64 for index in range(20)},
        "outputs": {path: artifacts.sha256(project / path) for path in outputs},
    }
    artifacts.write_json(project / folder / "provenance.json", record)


def start(project: Path, function: str, stdin: int | None = None) -> subprocess.Popen[bytes]:
    """A process that calls a function of ``datafree.workflow.tracking`` in the project."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    return subprocess.Popen([sys.executable, "-c", CALL, function, json.dumps(CONFIG)], cwd=project, env=environment, stdin=stdin)


def usage(process: psutil.Process) -> tuple[float, float]:
    """CPU seconds and resident memory in MB of a running process, with its ended children."""
    times = process.cpu_times()
    return times.user + times.system + times.children_user + times.children_system, process.memory_info().rss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two finished jobs")
    arguments = parser.parse_args()
    project = arguments.folder.absolute()
    existing = len(list(project.glob("artifacts/inversion/five/*")))
    for number in range(existing, arguments.jobs):
        finish_job(project, number)
    measure_logging(project)
    measure_following(project, max(existing, arguments.jobs), arguments.minutes, arguments.every)


def measure_logging(project: Path) -> None:
    logging, peak, cpu = start(project, "log_all"), 0.0, 0.0
    while logging.poll() is None:
        try:
            cpu, memory = usage(psutil.Process(logging.pid))
        except psutil.NoSuchProcess:
            break
        peak = max(peak, memory)
        time.sleep(0.05)
    print(f"log_all: {cpu:.1f} CPU s, peak {peak:.0f} MB", flush=True)


def measure_following(project: Path, number: int, minutes: float, every: float) -> None:
    following = start(project, "follow", subprocess.PIPE)
    process, used, memory = psutil.Process(following.pid), -1.0, 0.0
    while usage(process)[0] > used:  # until the first pass is over: no CPU time within two seconds
        used, memory = usage(process)
        time.sleep(2)
    print(f"first pass: {used:.1f} CPU s, {memory:.0f} MB", flush=True)
    begin, peak = time.monotonic(), memory
    while time.monotonic() < begin + 60 * minutes:
        finish_job(project, number)
        number += 1
        for _ in range(10):
            time.sleep(every / 10)
            peak = max(peak, usage(process)[1])
    per_minute = (usage(process)[0] - used) / ((time.monotonic() - begin) / 60)
    print(f"following: {per_minute:.2f} CPU s per minute ({per_minute / 0.6:.1f} % of a core), peak {peak:.0f} MB", flush=True)
    used = usage(process)[0]
    assert following.stdin is not None
    following.stdin.close()
    last = 0.0
    while following.poll() is None:
        try:
            last = usage(process)[0] - used
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    print(f"last pass: {last:.1f} CPU s", flush=True)


if __name__ == "__main__":
    with exit_on_user_error("tracking_cost"):
        main()
