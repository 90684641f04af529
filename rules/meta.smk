# Meta-learning: one learner per arm and seed.
def arm_architecture(wildcards):
    return searched_architecture(settings.meta.arms[wildcards.arm].backbone.genotype == "searched")


rule learner:
    message:
        "meta-learner {wildcards.arm}, seed {wildcards.seed}"
    input:
        unpack(arm_architecture),
        job=card(
            "learner",
            "artifacts/meta/{arm}/seed{seed}",
            "seed",
            meta__arm=lambda wildcards: as_tree(settings.meta.arms[wildcards.arm]),
        ),
        pools=lambda wildcards: pools_of(settings.meta.arms[wildcards.arm].inversion),
        weights=WEIGHTS,
        cards=CARDS,
        episodes=lambda wildcards: f"artifacts/tasks/{settings.meta.arms[wildcards.arm].inversion}/episodes.safetensors",
        reliability=lambda wildcards: reliability_of(settings.meta.arms[wildcards.arm].inversion),
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
    priority: 2 # the longest jobs start first; otherwise one of them would run alone at the end
    resources:
        gpu=1,
    shell:
        STAGE


rule meta:
    input:
        expand("artifacts/meta/{arm}/seed{seed}/provenance.json", arm=ARMS, seed=SEEDS),
