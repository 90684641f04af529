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
    # Only for methods that start from the meta-generator.
    starts_from_it = study["inversion"]["methods"][wildcards.method].get("initialisation") == "meta"
    return {"generator": rules.meta_generator.output.generator} if starts_from_it else {}


def auxiliary_teachers(wildcards):
    # Only for methods that match BatchNorm statistics.
    matched = study["inversion"]["auxiliary_teachers"] and study["inversion"]["methods"][wildcards.method]["method"] != "black_box"
    return {"zoo": ZOO} if matched else {}


# One process recovers the pools of a shard of teachers, because starting Python and PyTorch costs more than one recovery.
rule invert:
    message:
        "pools of shard {wildcards.shard} by {wildcards.method}"
    input:
        unpack(run.planned("invert")),
        unpack(generator_file),
        unpack(auxiliary_teachers),
        shard=".datafree/shards/teacher.{shard}.json",
    output:
        update(".datafree/shards/invert.{method}.{shard}.json"),
    params:
        job=shard_command(
            "invert",
            inputs={"weights": "artifacts/zoo/{teacher}/weights.safetensors", "card": "artifacts/zoo/{teacher}/card.json"},
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
        "logs/invert/{method}.{shard}.log",
    priority: 3
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=2000,
        runtime=60, # minutes
    shell:
        STAGE


rule pool_index:
    message:
        "index of the pools by {wildcards.method}"
    input:
        unpack(run.planned_index("invert")),
        shards=expand(".datafree/shards/invert.{{method}}.{shard}.json", shard=SHARDS),
    output:
        update(pool_index("{method}")),
    localrule: True
    shell:
        f"{PYTHON} -m datafree index {{output:q}} invert method={{wildcards.method}}"


rule inversion:
    input:
        **run.planned_target("images", "teacher", "meta_generator", "invert"),
        indexes=[pool_index(method) for method in METHODS],
