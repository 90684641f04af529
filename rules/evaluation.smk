# Evaluation on real images: the independent classifier (judge) and the oracles, the quality of recovered images, the few-shot table.

# Judge and oracles need real images of the teachers' classes; a zoo of downloaded teachers may have none.
REFERENCES = list(study["references"])
ORACLES = [name for name in REFERENCES if name != "judge"]


def reference_files(names, network, card):
    # Oracles are listed under `oracles` and `oracle_cards`, the judge under its own name.
    folders = [f"artifacts/evaluation/{name}" for name in names]
    files = {network: "network.safetensors", card: "card.json"}
    return {kind: [f"{folder}/{file}" for folder in folders] for kind, file in files.items()} if folders else {}


def reference_of(wildcards):
    return first_job("reference", wildcards)["reference"]


rule reference:
    message:
        "networks of shard {wildcards.shard} trained on real images"
    input:
        unpack(run.planned("reference")),
        after=lambda wildcards: searches("reference", reference_of(wildcards)),
        train=rules.images.output.train,
        zoo=ZOO,
    output:
        update(shard_file("reference", "{shard}")),
    params:
        job=shard_command(
            "reference",
            inputs=lambda wildcards: searched_architecture("reference", reference_of(wildcards)),
            outputs={
                "network": "artifacts/evaluation/{reference}/network.safetensors",
                "card": "artifacts/evaluation/{reference}/card.json",
                "history": "artifacts/evaluation/{reference}/history.csv",
                "metrics": "artifacts/evaluation/{reference}/metrics.json",
                "provenance": "artifacts/evaluation/{reference}/provenance.json",
            },
        ),
        settings=run.settings_of("reference"),
    log:
        "logs/shards/reference.{shard}.log",
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=3000,
        runtime=minutes("reference", 60),
    shell:
        STAGE


rule inversion_quality:
    message:
        "quality of the recovered images"
    input:
        unpack(run.planned("inversion_quality")),
        after=run.shard_files("reference", reference="judge"),
        train=rules.images.output.train,
        zoo=ZOO,
        pools=[pool_index(method) for method in METHODS],
    output:
        quality=update("artifacts/evaluation/inversion/quality.json"),
        metrics=update("artifacts/evaluation/inversion/metrics.json"),
        preview=update("artifacts/evaluation/inversion/real.png"),
        provenance=update("artifacts/evaluation/inversion/provenance.json"),
    params:
        job=command("inversion_quality", **reference_files([name for name in REFERENCES if name == "judge"], "judge", "judge_card")),
        settings=run.settings_of("inversion_quality"),
    log:
        "logs/inversion_quality.log",
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=2000,
        runtime=30, # minutes
    shell:
        STAGE


LEARNER_FILES = {
    "learners": expand("artifacts/meta/{arm}/seed{seed}/learner.safetensors", arm=ARMS, seed=SEEDS),
    "learner_cards": expand("artifacts/meta/{arm}/seed{seed}/card.json", arm=ARMS, seed=SEEDS),
}


rule few_shot:
    message:
        f"few-shot accuracy on the {study['evaluation']['split']} classes"
    input:
        unpack(run.planned("few_shot")),
        after=run.shard_files("learner") + run.shard_files("reference"),
        images=f"artifacts/data/{study['evaluation']['split']}.safetensors",
        zoo=ZOO,
    output:
        results=update("artifacts/evaluation/few_shot/results.json"),
        metrics=update("results/metrics.json"),
        provenance=update("artifacts/evaluation/few_shot/provenance.json"),
    params:
        job=command(
            "few_shot",
            **reference_files(ORACLES, "oracles", "oracle_cards"),
            **LEARNER_FILES,
        ),
        settings=run.settings_of("few_shot"),
    log:
        "logs/few_shot.log",
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=3000,
        runtime=60, # minutes
    shell:
        STAGE


rule networks:
    message:
        "networks that can learn new classes"
    input:
        unpack(run.planned("networks")),
        after=run.shard_files("learner"),
        images="artifacts/data/validation.safetensors",
        zoo=ZOO,
    output:
        networks=update("artifacts/evaluation/networks/networks.json"),
        times=update("artifacts/evaluation/networks/times.json"),
        provenance=update("artifacts/evaluation/networks/provenance.json"),
    params:
        job=command("networks", **LEARNER_FILES),
        settings=run.settings_of("networks"),
    log:
        "logs/networks.log",
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=3000,
        runtime=30, # minutes
    shell:
        STAGE


rule evaluation:
    input:
        **run.planned_target(*BEFORE_META, "learner", "reference", "inversion_quality", "few_shot", "networks"),
        results=[rules.inversion_quality.output, rules.few_shot.output, rules.networks.output],
