# The meta-learning arms, each with every seed.
def searched_cell(arm):
    # An arm on the searched backbone waits for the search; the first algorithm's cell is the one it takes.
    searched = settings.meta.arms[arm].backbone.genotype == "searched"
    return {"architecture": f"artifacts/nas/{ALGORITHMS[0]}/architecture.json"} if searched else {}


rule learner:
    message:
        "meta-learner {wildcards.arm}, seed {wildcards.seed}"
    input:
        unpack(lambda wildcards: searched_cell(wildcards.arm)),
        job=card(
            "learner",
            "artifacts/meta/{arm}/seed{seed}",
            "seed",
            "device",
            "precision",
            meta__arm=lambda wildcards: as_tree(settings.meta.arms[wildcards.arm]),
        ),
        pools=lambda wildcards: pools_of(settings.meta.arms[wildcards.arm].inversion),
        weights=WEIGHTS,
        cards=CARDS,
        episodes=lambda wildcards: f"artifacts/tasks/{settings.meta.arms[wildcards.arm].inversion}/episodes.safetensors",
        trust=lambda wildcards: trust_of(settings.meta.arms[wildcards.arm].inversion),
    output:
        learner=update("artifacts/meta/{arm}/seed{seed}/learner.safetensors"),
        card=update("artifacts/meta/{arm}/seed{seed}/card.json"),
        history=update("artifacts/meta/{arm}/seed{seed}/history.csv"),
        metrics=update("artifacts/meta/{arm}/seed{seed}/metrics.json"),
        provenance=update("artifacts/meta/{arm}/seed{seed}/provenance.json"),
    params:
        files=arguments,
    log:
        "logs/learner/{arm}.{seed}.log",
    resources:
        gpu=1,
    shell:
        STAGE


rule meta:
    input:
        expand("artifacts/meta/{arm}/seed{seed}/provenance.json", arm=ARMS, seed=SEEDS),
