# Shared by all rules: the resolved configuration, the teachers, job cards and the tracking process.
import json
import os
import subprocess
from dataclasses import asdict

from datafree.config import Source, as_tree, resolve, select, starts_from_meta, text_nulls
from datafree.data.layout import listing_hash
from datafree.errors import UserError
from datafree.workflow import preflight, provenance
from datafree.workflow.preflight import real_classes
from datafree.workflow.provenance import Job

try:
    settings = resolve(text_nulls(config))
    teachers = preflight.check(settings, Path(workflow.basedir))
    HARDWARE = preflight.resolve_hardware(settings)
except UserError as error:
    # Exit here: Snakemake would report a user's mistake as an error in the Snakefile.
    print(f"datafree: {error}", file=sys.stderr, flush=True)
    os._exit(2)

# For jobs whose card names the accepted hardware of an earlier result: they compute on the hardware of this machine.
os.environ[provenance.CURRENT_HARDWARE] = json.dumps(asdict(HARDWARE))

# Jobs run the code of this checkout, even if another version is installed.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(workflow.basedir) / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])

# Every step allocates and frees large tensors. With these settings glibc keeps the memory and uses large pages, which saves a fifth of
# the CPU time of an inversion; other C libraries ignore them.
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296:glibc.malloc.hugetlb=1")

TEACHERS = [teacher.name for teacher in teachers]
METHODS = list(settings.inversion.methods)
ALGORITHMS = list(settings.nas.algorithms)
ARMS = list(settings.meta.arms)
SEEDS = settings.meta.seeds


wildcard_constraints:
    teacher="[A-Za-z0-9_-]+",
    method="(?!meta_generator)[A-Za-z0-9_-]+",
    algorithm="[A-Za-z0-9_-]+",
    arm="[A-Za-z0-9_-]+",
    seed="[0-9]+",
    shard="[0-9]+",


HARDWARE_WARNINGS = []


def warn_of_other_hardware(reason):
    # Results that were pulled from another machine would otherwise be recomputed without a message. Printed once.
    if reason.startswith(provenance.OTHER_HARDWARE) and not HARDWARE_WARNINGS:
        HARDWARE_WARNINGS.append(reason)
        message = f"finished results were {reason}, and will be recomputed; --config accept_other_hardware=true keeps them"
        print(f"datafree: {message}", file=sys.stderr, flush=True)


def card(stage, folder, *keys, computes=True, **derived):
    """An input function: the path of the job card, which is rewritten whenever the job must check its work again.

    `folder`: the folder of the job's outputs. `keys`: the configuration keys that the job reads. `derived`: further keys as functions of the
    wildcards, with `__` for a dot; the value None leaves a key out. `computes`: whether the outputs depend on the hardware, which is
    false for jobs that only copy files.
    """

    def write(wildcards):
        values = {name.replace("__", "."): value(wildcards) for name, value in derived.items()}
        job_config = select(settings, *keys) | {name: value for name, value in values.items() if value is not None}
        job_config |= asdict(HARDWARE) if computes else {}
        job = Job(
            stage,
            dict(wildcards),
            job_config,
            provenance.code_hash(f"datafree.stages.{stage}"),
            inputs={},
            outputs={"provenance": str(Path(folder.format(**wildcards)) / "provenance.json")},
            accept_other_hardware=settings.accept_other_hardware,
        )
        # One folder per card: Snakemake lists a folder once, and treats files that appear in it later as missing.
        path = Path(".datafree/jobs") / ".".join([stage, *wildcards]) / "card.json"
        warn_of_other_hardware(provenance.write_card(path, job))
        return str(path)

    return write


def arguments(wildcards, input, output):
    """The inputs and outputs of a job as options of `datafree stage`."""
    files = {name: [value] if isinstance(value, str) else value for name, value in input.items() if name not in ("job", "shard")}
    inputs = [f"-i {name}={path}" for name, paths in files.items() for path in paths]
    outputs = [f"-o {name}={path}" for name, path in output.items()]
    return " ".join(inputs + outputs)


STAGE = "datafree stage --job {input.job} {params.files} > {log} 2>&1"

TRACKING_PROCESSES = []


def start_tracking():
    """Log finished jobs to MLflow in a separate process: no job waits for MLflow or fails with it. The process ends when its input closes."""
    if not settings.tracking.enabled:
        return
    tree = Path(".datafree/settings.yaml")
    tree.parent.mkdir(exist_ok=True)
    tree.write_text(json.dumps(as_tree(settings)))
    TRACKING_PROCESSES.append(subprocess.Popen(["datafree", "track", "--follow", tree], stdin=subprocess.PIPE))


def finish_tracking():
    for process in TRACKING_PROCESSES:
        process.communicate()


# The files of all teachers, in the order of the manifest.
WEIGHTS = expand("artifacts/zoo/{teacher}/weights.safetensors", teacher=TEACHERS)
CARDS = expand("artifacts/zoo/{teacher}/card.json", teacher=TEACHERS)


onstart:
    # No limit on the rate of job submissions: to enforce it, Snakemake re-evaluates all ready jobs every second and after every finished
    # job, which takes half a core after some hundred jobs (snakemake/snakemake#3744). Local jobs need no limit.
    workflow.scheduler.job_rate_limiter = None
    start_tracking()


onsuccess:
    finish_tracking()
    if Path("artifacts/report/table.txt").is_file():
        print(Path("artifacts/report/table.txt").read_text(), file=sys.stderr)


onerror:
    finish_tracking()
