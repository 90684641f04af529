# Architecture search on recovered images, and stand-alone training of the resulting architectures.
def algorithm_of(wildcards):
    return study["nas"]["algorithms"][first_job("search", wildcards)["algorithm"]]


def algorithm_inversion(wildcards):
    return algorithm_of(wildcards)["inversion"]


def searched_views(wildcards):
    return reinforced_input(algorithm_of(wildcards))


def searched_architecture(stage, name):
    # Backbones with `genotype: searched` need the result of one search, from a shard of `searches`.
    algorithm = study["architectures"][stage][name]
    return {"architecture": f"artifacts/nas/{algorithm}/architecture.json"} if algorithm else {}


def searches(stage, name):
    algorithm = study["architectures"][stage][name]
    return run.shard_files("search", algorithm=algorithm) if algorithm else []


rule search:
    message:
        "architecture searches of shard {wildcards.shard}"
    input:
        unpack(run.planned("search")),
        unpack(searched_views),
        zoo=ZOO,
        pools=lambda wildcards: pool_index(algorithm_inversion(wildcards)),
        reliability=lambda wildcards: reliability_of(algorithm_inversion(wildcards)),
    output:
        update(shard_file("search", "{shard}")),
    params:
        job=shard_command(
            "search",
            outputs={
                "architecture": "artifacts/nas/{algorithm}/architecture.json",
                "history": "artifacts/nas/{algorithm}/history.csv",
                "candidates": "artifacts/nas/{algorithm}/candidates.csv",
                "drawing": "artifacts/nas/{algorithm}/cell.png",
                "pareto": "artifacts/nas/{algorithm}/pareto.png",
                "metrics": "artifacts/nas/{algorithm}/metrics.json",
                "provenance": "artifacts/nas/{algorithm}/provenance.json",
            },
        ),
        settings=run.settings_of("search"),
    # Before the learners: a search takes as long, and the stand-alone training follows it.
    priority: 3
    log:
        "logs/shards/search.{shard}.log",
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=3000 + study["reinforcement"]["megabytes"],
        runtime=minutes("search", 120),
    shell:
        STAGE


rule retrain:
    message:
        "stand-alone training of the search results of shard {wildcards.shard}"
    input:
        unpack(run.planned("retrain")),
        unpack(searched_views),
        after=shard_file("search", "{shard}"), # the same algorithms
        zoo=ZOO,
        pools=lambda wildcards: pool_index(algorithm_inversion(wildcards)),
        reliability=lambda wildcards: reliability_of(algorithm_inversion(wildcards)),
    output:
        update(shard_file("retrain", "{shard}")),
    params:
        job=shard_command(
            "retrain",
            inputs=lambda _: {"architecture": "artifacts/nas/{algorithm}/architecture.json"},
            outputs={
                "network": "artifacts/nas/{algorithm}/retrained/network.safetensors",
                "card": "artifacts/nas/{algorithm}/retrained/card.json",
                "history": "artifacts/nas/{algorithm}/retrained/history.csv",
                "metrics": "artifacts/nas/{algorithm}/retrained/metrics.json",
                "provenance": "artifacts/nas/{algorithm}/retrained/provenance.json",
            },
        ),
        settings=run.settings_of("retrain"),
    log:
        "logs/shards/retrain.{shard}.log",
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=3000 + study["reinforcement"]["megabytes"],
        runtime=minutes("retrain", 120),
    shell:
        STAGE


rule nas:
    input:
        **run.planned_target("images", "teacher", "meta_generator", "invert", "episodes", "reinforce", "search", "retrain"),
        results=run.shard_files("search") + run.shard_files("retrain"),
