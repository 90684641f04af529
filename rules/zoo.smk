# Teachers: trained, copied or downloaded, checked, and described by a card. One process works through the teachers of a shard.
def training_images(wildcards):
    trained = study["teachers"][first_job("teacher", wildcards)["teacher"]]["training"]
    return {"train": rules.images.output.train} if trained else {}


rule teacher:
    message:
        "teachers of shard {wildcards.shard}"
    input:
        unpack(run.planned("teacher")),
        unpack(training_images),
    output:
        update(shard_file("teacher", "{shard}")),
    params:
        job=shard_command(
            "teacher",
            outputs={
                "weights": "artifacts/zoo/{teacher}/weights.safetensors",
                "card": "artifacts/zoo/{teacher}/card.json",
                "provenance": "artifacts/zoo/{teacher}/provenance.json",
            },
        ),
        settings=run.settings_of("teacher"),
    log:
        "logs/shards/teacher.{shard}.log",
    threads: 1
    resources:
        gpu=lambda wildcards: GPU if training_images(wildcards) else 0,
        mem_mb=2000,
        runtime=minutes("teacher", 20),
    shell:
        STAGE


rule zoo_index:
    message:
        "index of the teachers"
    input:
        unpack(run.planned_index("teacher")),
        shards=run.shard_files("teacher"),
    output:
        update(ZOO),
    localrule: True
    shell:
        f"{PYTHON} -m datafree index {{output:q}} teacher"


rule zoo:
    input:
        **run.planned_target("images", "teacher"),
        index=ZOO,
