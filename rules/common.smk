# What all rules share: the resolved configuration, the zoo, and the job card through which a job learns what it depends on.
import json
import os
import subprocess
from dataclasses import asdict

from datafree.workflow import preflight

from datafree.workflow import provenance
from datafree.config import Source, as_tree, resolve, select, starts_from_meta
from datafree.data.layout import listing_hash
from datafree.errors import UserError
from datafree.workflow.preflight import real_classes
from datafree.workflow.provenance import Job

try:
    settings = resolve(config)
    teachers = preflight.check(settings, Path(workflow.basedir))
    HARDWARE = preflight.resolve_hardware(settings)
except UserError as error:
    # One line instead of Snakemake's report on a broken workflow: nothing is broken here, and nothing has started yet.
    print(f"datafree: {error}", file=sys.stderr, flush=True)
    os._exit(2)

# A job whose card names accepted hardware of an earlier result computes on that of this machine.
os.environ[provenance.PRESENT_HARDWARE] = json.dumps(asdict(HARDWARE))

# Jobs run the code of this checkout, whatever else is installed.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(workflow.basedir) / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])

# Large tensors come and go at every step. Kept by the C library instead of returned to the system each time, and on large pages, they
# save a fifth of the CPU time of an inversion; other C libraries ignore this.
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


ANNOUNCED = []


def announce(reason):
    # Once: pulled results would otherwise be made again without a word.
    if reason.startswith(provenance.OTHER_HARDWARE) and not ANNOUNCED:
        ANNOUNCED.append(reason)
        told = f"finished results were {reason} as here, and will be made again; --config accept_other_hardware=true keeps them"
        print(f"datafree: {told}", file=sys.stderr, flush=True)


def card(stage, folder, *keys, computes=True, **derived):
    """An input function: the card of a stage's job, refreshed whenever the job must look at its work again.

    `folder` holds the job's outputs; `keys` are the configuration keys that it reads; `derived` are further ones, each a function
    of the wildcards; None where a job does not read it. What a job `computes` depends on the hardware, what it only copies does not.
    """

    def refreshed(wildcards):
        read = {name.replace("__", "."): value(wildcards) for name, value in derived.items()}
        chosen = select(settings, *keys) | {name: value for name, value in read.items() if value is not None}
        chosen |= asdict(HARDWARE) if computes else {}
        job = Job(
            stage,
            dict(wildcards),
            chosen,
            provenance.code_hash(f"datafree.stages.{stage}"),
            inputs={},
            outputs={"provenance": str(Path(folder.format(**wildcards)) / "provenance.json")},
            accept_other_hardware=settings.accept_other_hardware,
        )
        # A folder of its own: Snakemake lists a folder once, at the first look, and takes what appears there later for missing.
        path = Path(".datafree/jobs") / ".".join([stage, *wildcards]) / "card.json"
        announce(provenance.write_card(path, job))
        return str(path)

    return refreshed


def arguments(wildcards, input, output):
    """The files of a job as options of `datafree stage`."""
    given = [f"-i {name}={path}" for name, value in input.items() if name not in ("job", "shard") for path in ([value] if isinstance(value, str) else value)]
    made = [f"-o {name}={path}" for name, path in output.items()]
    return " ".join(given + made)


STAGE = "datafree stage --job {input.job} {params.files} > {log} 2>&1"

FOLLOWERS = []


def start_tracking():
    """MLflow is fed by one process beside the jobs: no job waits for it or fails with it. It ends when its input closes."""
    if not settings.tracking.enabled:
        return
    tree = Path(".datafree/settings.yaml")
    tree.parent.mkdir(exist_ok=True)
    tree.write_text(json.dumps(as_tree(settings)))
    FOLLOWERS.append(subprocess.Popen(["datafree", "track", "--follow", tree], stdin=subprocess.PIPE))


def finish_tracking():
    for follower in FOLLOWERS:
        follower.communicate()


# The zoo as every later stage reads it, in the manifest's order.
WEIGHTS = expand("artifacts/zoo/{teacher}/weights.safetensors", teacher=TEACHERS)
CARDS = expand("artifacts/zoo/{teacher}/card.json", teacher=TEACHERS)


onstart:
    # Snakemake looks at all ready jobs again a second after every look, and once more for each job that ended, to keep submissions to a
    # rate; after some hundred jobs that takes half a core (snakemake/snakemake#3744). Local jobs need no rate.
    workflow.scheduler.job_rate_limiter = None
    start_tracking()


onsuccess:
    finish_tracking()
    if Path("artifacts/report/table.txt").is_file():
        print(Path("artifacts/report/table.txt").read_text(), file=sys.stderr)


onerror:
    finish_tracking()
