# Recovering training images from teachers: one shared meta-generator, then one pool per method and teacher.
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
    priority: 3 # learners and searches wait for the pools
    resources:
        gpu=1,
    shell:
        STAGE


def starting_point(wildcards):
    # Only a method that starts from the meta-generator waits for it.
    return {"generator": rules.meta_generator.output.generator} if starts_from_meta(settings.inversion.methods[wildcards.method]) else {}


def auxiliary_teachers(wildcards):
    # Methods that ask for statistics show their images to other teachers, too.
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

# Teachers that one process recovers, by the name of the shard: of one architecture, in the manifest's order.
SHARDS = preflight.shards(teachers, settings.inversion.shard_size)
SHARD_OF = {teacher: shard for shard, members in SHARDS.items() for teacher in members}


def before(wildcards):
    # A teacher in a shard waits for that alone, which waits for the auxiliary_teachers: a file per teacher as input of a job per teacher would be
    # most of what Snakemake has to think about in a large zoo. A shard of one teacher is that teacher's own job.
    shard = SHARD_OF[wildcards.teacher]
    return {"shard": f".datafree/shards/{wildcards.method}.{shard}"} if len(SHARDS[shard]) > 1 else auxiliary_teachers(wildcards)


def invert_files(wildcards, input, output):
    return arguments(wildcards, auxiliary_teachers(wildcards) | dict(input), output)


rule invert:
    message:
        "pool of {wildcards.teacher} by {wildcards.method}"
    input:
        unpack(starting_point),
        unpack(before),
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
    # As the jobs of rule invert have them; `datafree stage` fills in each teacher.
    shared = {name: input[name] for name in ("generator", "auxiliary_weights", "auxiliary_cards") if name in input.keys()}
    own = {"weights": rules.invert.input.weights, "card": rules.invert.input.card}
    return arguments(wildcards, shared | own, rules.invert.output)


# Does the work of several `invert` jobs in one process: starting Python and PyTorch, and on a GPU a small model's share of it, cost more
# than the recovery itself. Its mark says only that they have been done; the jobs after it look for themselves, and find nothing to do.
rule invert_shard:
    message:
        "pools of {params.members} by {wildcards.method}"
    input:
        unpack(starting_point),
        unpack(auxiliary_teachers),
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


# Snakemake warns for every pool that its shard has made before its own job.
logger.addFilter(lambda record: "following output files of rule invert were not present" not in record.getMessage())


def pools_of(method):
    return expand("artifacts/inversion/{method}/{teacher}/images.safetensors", method=method, teacher=TEACHERS)


rule inversion:
    input:
        expand("artifacts/inversion/{method}/{teacher}/provenance.json", method=METHODS, teacher=TEACHERS),
