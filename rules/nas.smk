# Architecture search on recovered images, and stand-alone training of the resulting architecture.
def algorithm_inversion(wildcards):
    return study["nas"]["algorithms"][wildcards.algorithm]["inversion"]


def searched_architecture(stage, name):
    # Backbones with `genotype: searched` need the result of one search.
    algorithm = study["architectures"][stage][name]
    return {"architecture": f"artifacts/nas/{algorithm}/architecture.json"} if algorithm else {}


rule search:
    message:
        "architecture search by {wildcards.algorithm}"
    input:
        unpack(run.planned("search")),
        zoo=ZOO,
        pools=lambda wildcards: pool_index(algorithm_inversion(wildcards)),
        reliability=lambda wildcards: reliability_of(algorithm_inversion(wildcards)),
    output:
        architecture=update("artifacts/nas/{algorithm}/architecture.json"),
        history=update("artifacts/nas/{algorithm}/history.csv"),
        candidates=update("artifacts/nas/{algorithm}/candidates.csv"),
        drawing=update("artifacts/nas/{algorithm}/cell.png"),
        pareto=update("artifacts/nas/{algorithm}/pareto.png"),
        metrics=update("artifacts/nas/{algorithm}/metrics.json"),
        provenance=update("artifacts/nas/{algorithm}/provenance.json"),
    params:
        job=command("search"),
        settings=run.settings_of("search"),
    # Before the learners: a search takes as long, and the stand-alone training follows it.
    priority: 3
    log:
        "logs/search/{algorithm}.log",
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=3000,
        runtime=120, # minutes
    shell:
        STAGE


rule retrain:
    message:
        "stand-alone training of the result of {wildcards.algorithm}"
    input:
        unpack(run.planned("retrain")),
        architecture=rules.search.output.architecture,
        zoo=ZOO,
        pools=lambda wildcards: pool_index(algorithm_inversion(wildcards)),
        reliability=lambda wildcards: reliability_of(algorithm_inversion(wildcards)),
    output:
        network=update("artifacts/nas/{algorithm}/retrained/network.safetensors"),
        card=update("artifacts/nas/{algorithm}/retrained/card.json"),
        history=update("artifacts/nas/{algorithm}/retrained/history.csv"),
        metrics=update("artifacts/nas/{algorithm}/retrained/metrics.json"),
        provenance=update("artifacts/nas/{algorithm}/retrained/provenance.json"),
    params:
        job=command("retrain"),
        settings=run.settings_of("retrain"),
    log:
        "logs/retrain/{algorithm}.log",
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=3000,
        runtime=120, # minutes
    shell:
        STAGE


rule nas:
    input:
        **run.planned_target("images", "teacher", "meta_generator", "invert", "episodes", "search", "retrain"),
        results=expand("artifacts/nas/{algorithm}/{part}provenance.json", algorithm=ALGORITHMS, part=["", "retrained/"]),
