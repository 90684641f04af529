# Inversion: one meta-generator for all teachers, then one pool of recovered images per method and teacher.
rule meta_generator:
    message:
        "meta-generator across the teachers"
    input:
        unpack(run.planned("meta_generator")),
        zoo=ZOO,
    output:
        generator=update("artifacts/inversion/meta_generator/generator.safetensors"),
        history=update("artifacts/inversion/meta_generator/history.csv"),
        metrics=update("artifacts/inversion/meta_generator/metrics.json"),
        provenance=update("artifacts/inversion/meta_generator/provenance.json"),
    params:
        job=command("meta_generator"),
        settings=run.settings_of("meta_generator"),
    log:
        "logs/meta_generator.log",
    priority: 3 # first, because learners and searches need the pools
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=2000,
        runtime=60, # minutes
    shell:
        STAGE


def generator_file(wildcards):
    starts_from_it = deals.starts_from_meta_generator(study, first_job("invert", wildcards)["method"])
    return {"generator": rules.meta_generator.output.generator} if starts_from_it else {}


def auxiliary_teachers(wildcards):
    return {"zoo": ZOO} if deals.matches_statistics(study, first_job("invert", wildcards)["method"]) else {}


# One process recovers the pools of a shard, of several teachers and methods.
rule invert:
    message:
        "pools of shard {wildcards.shard}"
    input:
        unpack(run.planned("invert")),
        unpack(generator_file),
        unpack(auxiliary_teachers),
        after=ZOO,
    output:
        update(shard_file("invert", "{shard}")),
    params:
        job=shard_command(
            "invert",
            inputs=lambda _: {"weights": "artifacts/zoo/{teacher}/weights.safetensors", "card": "artifacts/zoo/{teacher}/card.json"},
            outputs={
                "images": "artifacts/inversion/{method}/{teacher}/images.safetensors",
                "history": "artifacts/inversion/{method}/{teacher}/history.csv",
                "metrics": "artifacts/inversion/{method}/{teacher}/metrics.json",
                "preview": "artifacts/inversion/{method}/{teacher}/preview.png",
                "provenance": "artifacts/inversion/{method}/{teacher}/provenance.json",
            },
        ),
        settings=run.settings_of("invert"),
    log:
        "logs/shards/invert.{shard}.log",
    priority: 3
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=2000,
        runtime=minutes("invert", 20),
    shell:
        STAGE


rule pool_index:
    message:
        "index of the pools by {wildcards.method}"
    input:
        unpack(run.planned_index("invert")),
        shards=lambda wildcards: run.shard_files("invert", method=wildcards.method),
    output:
        update(pool_index("{method}")),
    localrule: True
    shell:
        f"{PYTHON} -m datafree index {{output:q}} invert method={{wildcards.method}}"


rule inversion:
    input:
        **run.planned_target("images", "teacher", "meta_generator", "invert"),
        indexes=[pool_index(method) for method in METHODS],
