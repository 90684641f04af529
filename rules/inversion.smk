# Inversion: one meta-generator for all teachers, then one pool of recovered images per method and teacher.
from snakemake.iocontainers import Wildcards
from snakemake.logging import logger


rule meta_generator:
    message:
        "meta-generator across the teachers"
    input:
        job=card(
            "meta_generator",
            "artifacts/inversion/meta_generator",
            "seed",
            "data.image_size",
            "inversion.loss",
            "inversion.shift",
            "inversion.augmentation",
            "inversion.auxiliary_teachers",
            "inversion.region",
            "inversion.meta_generator",
        ),
        weights=WEIGHTS,
        cards=CARDS,
    output:
        generator=update("artifacts/inversion/meta_generator/generator.safetensors"),
        history=update("artifacts/inversion/meta_generator/history.csv"),
        metrics=update("artifacts/inversion/meta_generator/metrics.json"),
        provenance=update("artifacts/inversion/meta_generator/provenance.json"),
    params:
        files=arguments,
    log:
        "logs/meta_generator.log",
    priority: 3 # first, because learners and searches need the pools
    resources:
        gpu=1,
    shell:
        STAGE


def generator_file(wildcards):
    # Only for methods that start from the meta-generator.
    return {"generator": rules.meta_generator.output.generator} if starts_from_meta(settings.inversion.methods[wildcards.method]) else {}


def auxiliary_teacher_files(wildcards):
    # Only for methods that match BatchNorm statistics.
    if not settings.inversion.auxiliary_teachers or settings.inversion.methods[wildcards.method].method == "black_box":
        return {}
    return {"auxiliary_weights": WEIGHTS, "auxiliary_cards": CARDS}


invert_card = card(
    "invert",
    "artifacts/inversion/{method}/{teacher}",
    "seed",
    "device",
    "precision",
    "data.image_size",
    "inversion.loss",
    "inversion.shift",
    "inversion.augmentation",
    "inversion.auxiliary_teachers",
    "inversion.region",
    "inversion.images_per_class",
    inversion__method=lambda wildcards: as_tree(settings.inversion.methods[wildcards.method]),
)

# For each shard number the teachers that one process recovers: of one architecture, in the order of the manifest.
SHARDS = preflight.shards(teachers, settings.inversion.shard_size)
SHARD_OF = {teacher: shard for shard, members in SHARDS.items() for teacher in members}


def shard_or_auxiliary_teachers(wildcards):
    # A teacher of a larger shard depends only on the shard's job, which depends on the auxiliary teachers: with every teacher's files as
    # inputs of every teacher's job, Snakemake's graph of a large zoo would be quadratic. A shard of one teacher has no job.
    shard = SHARD_OF[wildcards.teacher]
    return {"shard": f".datafree/shards/{wildcards.method}.{shard}"} if len(SHARDS[shard]) > 1 else auxiliary_teacher_files(wildcards)


def invert_files(wildcards, input, output):
    return arguments(wildcards, auxiliary_teacher_files(wildcards) | dict(input), output)


rule invert:
    message:
        "pool of {wildcards.teacher} by {wildcards.method}"
    input:
        unpack(generator_file),
        unpack(shard_or_auxiliary_teachers),
        job=invert_card,
        weights="artifacts/zoo/{teacher}/weights.safetensors",
        card="artifacts/zoo/{teacher}/card.json",
    output:
        images=update("artifacts/inversion/{method}/{teacher}/images.safetensors"),
        history=update("artifacts/inversion/{method}/{teacher}/history.csv"),
        metrics=update("artifacts/inversion/{method}/{teacher}/metrics.json"),
        preview=update("artifacts/inversion/{method}/{teacher}/preview.png"),
        provenance=update("artifacts/inversion/{method}/{teacher}/provenance.json"),
    params:
        files=invert_files,
    log:
        "logs/invert/{method}/{teacher}.log",
    resources:
        gpu=1,
    shell:
        STAGE


def shard_cards(wildcards):
    return [invert_card(Wildcards(fromdict={"method": wildcards.method, "teacher": teacher})) for teacher in SHARDS[wildcards.shard]]


def shard_files(wildcards, input):
    # The files of rule invert with `{teacher}` left open; `datafree stage` fills in the teacher of each job card.
    shared = {name: input[name] for name in ("generator", "auxiliary_weights", "auxiliary_cards") if name in input.keys()}
    of_teacher = {"weights": rules.invert.input.weights, "card": rules.invert.input.card}
    return arguments(wildcards, shared | of_teacher, rules.invert.output)


# Runs several `invert` jobs in one process, because starting Python and PyTorch costs more than one recovery, and one small model does not
# fill a GPU. Its output is an empty file; the `invert` jobs then run too, find their records up to date, and compute nothing.
rule invert_shard:
    message:
        "pools of {params.members} by {wildcards.method}"
    input:
        unpack(generator_file),
        unpack(auxiliary_teacher_files),
        weights=lambda wildcards: expand("artifacts/zoo/{teacher}/weights.safetensors", teacher=SHARDS[wildcards.shard]),
        cards=lambda wildcards: expand("artifacts/zoo/{teacher}/card.json", teacher=SHARDS[wildcards.shard]),
        jobs=shard_cards,
    output:
        touch(".datafree/shards/{method}.{shard}"),
    params:
        files=shard_files,
        jobs=lambda wildcards, input: " ".join(f"--job {path}" for path in input.jobs),
        members=lambda wildcards: f"{len(SHARDS[wildcards.shard])} teachers from {SHARDS[wildcards.shard][0]} on",
    log:
        "logs/invert_shard/{method}.{shard}.log",
    priority: 3
    resources:
        gpu=1,
    shell:
        "datafree stage {params.files} {params.jobs} > {log} 2>&1"


# Snakemake would warn of every pool that exists before its `invert` job has run, because the shard made it.
logger.addFilter(lambda record: "following output files of rule invert were not present" not in record.getMessage())


def pools_of(method):
    return expand("artifacts/inversion/{method}/{teacher}/images.safetensors", method=method, teacher=TEACHERS)


rule inversion:
    input:
        expand("artifacts/inversion/{method}/{teacher}/provenance.json", method=METHODS, teacher=TEACHERS),
