"""Cost of the workflow itself against the number of teachers: dry run, second start with nothing to do, records, processes.

    python benchmarks/workflow_scale.py --teachers 16 100 300 1000 [--output scale.json]

Nothing is trained. The manifest has as many teachers as given; the rest is params.yaml. For "nothing to do", every output is a file of a
few bytes with a correct record. Every start of Snakemake is a real one; CPU seconds and peak memory are those of it and its children.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from datafree import artifacts, config
from datafree.errors import exit_on_user_error
from datafree.workflow import indexes
from datafree.workflow import plan as plans
from datafree.workflow.deals import Capacity
from datafree.workflow.provenance import Job
from datafree.workflow.run import ZOO, Run, pool_index

PROJECT = Path(__file__).parents[1]
MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print("USED", used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(code)
"""


def main() -> None:
    """Measure and print one line of JSON for each number of teachers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teachers", type=int, nargs="+", default=[16, 100, 300, 1000])
    parser.add_argument("--output", type=Path, help="JSON file for all rows")
    arguments = parser.parse_args()
    rows = []
    for teachers in arguments.teachers:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(teachers, Path(folder)))
            print(json.dumps(rows[-1]), flush=True)
    if arguments.output:
        artifacts.write_json(arguments.output, rows)


def measure(teachers: int, folder: Path) -> dict[str, float | int]:
    """One row; ``folder`` is the working folder of Snakemake."""
    os.chdir(folder)
    manifest = folder / "zoo.yaml"
    entries = "".join(f"  - {{name: t{number:04}, train: {{classes: 8, seed: {number}}}}}\n" for number in range(teachers))
    manifest.write_text(f"defaults: {{architecture: {{name: conv4_strided, width: 32}}}}\nteachers:\n{entries}")
    settings = folder / "settings.yaml"
    settings.write_text(f"zoo: {{manifest: {manifest}}}\ntracking: {{enabled: false}}\n")
    dry, printed = snakemake("--dry-run", "--cores", "1", "--printshellcmds", "--configfile", str(settings))
    processes = len(re.findall(r"-m datafree (?:stage|index) ", printed))
    fake_results(plans.make_plan(config.load(PROJECT / "params.yaml", settings), PROJECT), printed)
    nothing, printed = snakemake("--cores", "1", "--configfile", str(settings))
    assert "Nothing to be done" in printed, printed[-2000:]
    sizes = [path.stat().st_size for path in Path("artifacts").rglob("provenance.json")]
    return {
        "teachers": teachers,
        "processes": processes,
        "dry_run_cpu_seconds": dry[0],
        "dry_run_peak_mb": dry[1],
        "nothing_to_do_cpu_seconds": nothing[0],
        "nothing_to_do_peak_mb": nothing[1],
        "largest_record_bytes": max(sizes),
    }


def snakemake(*arguments: str) -> tuple[tuple[float, int], str]:
    """Run Snakemake here; (CPU seconds, peak MB) and its output."""
    measured = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); used = resource.getrusage(resource.RUSAGE_CHILDREN); "
    )
    measured += "print('USED', used.ru_utime + used.ru_stime, used.ru_maxrss); sys.exit(code)"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "Snakefile"), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != plans.VARIABLE}
    done = subprocess.run([sys.executable, "-c", MEASURED, *command], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    seconds, kilobytes = done.stdout.rsplit("USED", 1)[1].split()
    return (round(float(seconds), 1), int(kilobytes) // 1024), done.stdout + done.stderr


def fake_results(plan: plans.Plan, printed: str) -> None:
    """Files of a few bytes for all outputs of a dry run's commands, with their records and indexes."""
    shards = Run(plan, Path("plan.json"), False).deal(Capacity(1, 0))
    commands = [shlex.split(line) for line in re.findall(r"-m datafree stage (.*) > logs/", printed)]
    for stage in plans.STAGES:
        for words in commands:
            if words[0] != stage:
                continue
            wildcards = dict(word.split("=", 1) for word in words[1:] if re.fullmatch(r"[a-z]+=[\w-]+", word))
            inputs: dict[str, str | list[str]] = {}
            for name, path in _options(words, "-i"):
                inputs[name] = [*inputs.get(name, []), path]
            outputs = dict(_options(words, "-o"))
            shard = words[words.index("--shard") + 1] if "--shard" in words else ""
            members = shards[stage][shard] if shard else [wildcards]
            for member in members:
                _fake(plan.job(stage, member, inputs, outputs), plan)
            if shard:
                artifacts.write_json(words[words.index("--shard-file") + 1], {"jobs": members})
        if stage == "teacher":
            indexes.write_index(ZOO, [plan.job(stage, {"teacher": teacher}) for teacher in plan.teachers])
        elif stage == "invert":
            for method in plan.tree["methods"]:
                jobs = [plan.job(stage, {"method": method, "teacher": teacher}) for teacher in plan.teachers]
                indexes.write_index(pool_index(method), jobs)


def _options(words: list[str], flag: str) -> list[tuple[str, str]]:
    return [(name, path) for word, text in itertools.pairwise(words) if word == flag for name, path in [text.split("=", 1)]]


def _fake(job: Job, plan: plans.Plan) -> None:
    for path in job.result_paths():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(path)
    record = {
        **job.specification(),
        "code": {"modules": [job.module], "hash": plan.source.hash_of([job.module])},
        "input_files": job.input_files(),
        "inputs": {path: artifacts.sha256(path) for path in job.input_paths()},
        "outputs": {path: artifacts.sha256(path) for path in job.result_paths()},
        "produced_with": {},
    }
    Path(job.outputs["provenance"]).write_text(json.dumps(record, indent=2, sort_keys=True))


if __name__ == "__main__":
    with exit_on_user_error("workflow_scale"):
        main()
