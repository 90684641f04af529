# Architecture search on recovered images, and stand-alone training of the resulting architecture.
def algorithm_tree(wildcards):
    return as_tree(settings.nas.algorithms[wildcards.algorithm])


def algorithm_pools(wildcards):
    return pools_of(settings.nas.algorithms[wildcards.algorithm].inversion)


def algorithm_reliability(wildcards):
    return reliability_of(settings.nas.algorithms[wildcards.algorithm].inversion)


def searched_architecture(wanted):
    # Backbones with `genotype: searched` need the result of the first search.
    return {"architecture": f"artifacts/nas/{ALGORITHMS[0]}/architecture.json"} if wanted else {}


rule search:
    message:
        "architecture search by {wildcards.algorithm}"
    input:
        job=card("search", "artifacts/nas/{algorithm}", "seed", nas__algorithm=algorithm_tree),
        pools=algorithm_pools,
        reliability=algorithm_reliability,
        cards=CARDS,
    output:
        architecture=update("artifacts/nas/{algorithm}/architecture.json"),
        history=update("artifacts/nas/{algorithm}/history.csv"),
        candidates=update("artifacts/nas/{algorithm}/candidates.csv"),
        drawing=update("artifacts/nas/{algorithm}/cell.png"),
        pareto=update("artifacts/nas/{algorithm}/pareto.png"),
        metrics=update("artifacts/nas/{algorithm}/metrics.json"),
        provenance=update("artifacts/nas/{algorithm}/provenance.json"),
    params:
        files=arguments,
    # Before the learners: a search takes as long, and the stand-alone training follows it.
    priority: 3
    log:
        "logs/search/{algorithm}.log",
    resources:
        gpu=1,
    shell:
        STAGE


rule retrain:
    message:
        "stand-alone training of the result of {wildcards.algorithm}"
    input:
        job=card("retrain", "artifacts/nas/{algorithm}/retrained", "seed", nas__algorithm=algorithm_tree),
        architecture=rules.search.output.architecture,
        pools=algorithm_pools,
        reliability=algorithm_reliability,
        cards=CARDS,
    output:
        network=update("artifacts/nas/{algorithm}/retrained/network.safetensors"),
        card=update("artifacts/nas/{algorithm}/retrained/card.json"),
        history=update("artifacts/nas/{algorithm}/retrained/history.csv"),
        metrics=update("artifacts/nas/{algorithm}/retrained/metrics.json"),
        provenance=update("artifacts/nas/{algorithm}/retrained/provenance.json"),
    params:
        files=arguments,
    log:
        "logs/retrain/{algorithm}.log",
    resources:
        gpu=1,
    shell:
        STAGE


rule nas:
    input:
        expand("artifacts/nas/{algorithm}/{part}provenance.json", algorithm=ALGORITHMS, part=["", "retrained/"]),
