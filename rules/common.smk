# Shared by all rules: the plan of this run, the names in it, and the command that runs a job.
import subprocess
import sys

from datafree.errors import UserError
from datafree.workflow import plan as plans
from datafree.workflow import deals
from datafree.workflow.run import PYTHON, ZOO, Run, command, pool_index, shard_command, shard_file

try:
    if store := workflow.storage_settings.default_storage_provider:
        raise UserError(f"--default-storage-provider: got {store}; jobs need a local or shared file system, leave the option out")
    # On a cluster, --jobs is the number of submissions at the same time; on one machine, --cores is that of the jobs, which use one each.
    submissions = workflow.resource_settings.nodes
    gpus = workflow.global_resources["gpu"].value if "gpu" in workflow.global_resources else None
    run = Run.of_snakefile(config, Path(workflow.basedir), submissions or workflow.resource_settings.cores or 1, gpus or submissions)
except UserError as error:
    print(f"datafree: {error}", file=sys.stderr, flush=True)
    raise SystemExit(2)


# The jobs of a run, on any machine, read the plan of the run that started them.
envvars:
    plans.VARIABLE,


study = run.plan.tree
if gpus:  # for Snakemake, which counts jobs
    workflow.global_resources["gpu"] = gpus * study["jobs_per_gpu"]
# Jobs run the code of this checkout, even if another version is installed.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(workflow.basedir) / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
# Every step allocates and frees large tensors. With these settings glibc keeps the memory and uses large pages, which saves a fifth of
# the CPU time of an inversion; other C libraries ignore them.
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296:glibc.malloc.hugetlb=1")

METHODS = study["methods"]
ALGORITHMS = list(study["nas"]["algorithms"])
ARMS = list(study["meta"]["arms"])
SEEDS = study["meta"]["seeds"]
GPU = 1 if run.plan.hardware.device.startswith("cuda") else 0  # of jobs that use a device


wildcard_constraints:
    method="(?!meta_generator)[A-Za-z0-9_-]+",
    shard="[0-9]+",


def first_job(stage, wildcards):
    # The wildcards of a job of the shard. All jobs of a shard have the same inputs, files of their own apart (datafree.workflow.deals).
    return run.plan.shards[stage][wildcards.shard][0]


def minutes(stage, of_one_job):
    # The time limit of a shard on a cluster; at most a day, after which its jobs continue from their checkpoints.
    return lambda wildcards: min(of_one_job * len(run.plan.shards[stage][wildcards.shard]), 24 * 60)


# `job`: stage, wildcards, inputs and outputs, quoted (datafree.workflow.run.command).
STAGE = f"{PYTHON} -m datafree stage {{params.job}} > {{log:q}} 2>&1"


# The start of this run, an input of every job whose record does not match the plan.
rule start:
    message:
        "start of the run"
    output:
        touch(f".datafree/plans/{{run}}{plans.STARTED}"),
    localrule: True


FOLLOWERS = []


onstart:
    try:
        run.begin()
    except (UserError, OSError) as error:
        print(f"datafree: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2)
    if study["tracking"]["enabled"] and not run.begun:
        # Logs finished jobs to MLflow in a separate process: no job waits for MLflow or fails with it. It ends when its input closes.
        FOLLOWERS.append(subprocess.Popen([sys.executable, "-m", "datafree", "track", "--follow", run.path], stdin=subprocess.PIPE))


def finish_tracking():
    for follower in FOLLOWERS:
        follower.communicate()


onsuccess:
    finish_tracking()
    if Path("artifacts/report/table.txt").is_file():
        print(Path("artifacts/report/table.txt").read_text(), file=sys.stderr)


onerror:
    finish_tracking()
