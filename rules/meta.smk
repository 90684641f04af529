# Meta-learning: one learner per arm and seed.
BEFORE_META = ("images", "teacher", "meta_generator", "invert", "episodes", "search")


def arm_inversion(wildcards):
    return study["meta"]["arms"][wildcards.arm]["inversion"]


rule learner:
    message:
        "meta-learner {wildcards.arm}, seed {wildcards.seed}"
    input:
        unpack(run.planned("learner")),
        unpack(lambda wildcards: searched_architecture("learner", wildcards.arm)),
        zoo=ZOO,
        pools=lambda wildcards: pool_index(arm_inversion(wildcards)),
        episodes=lambda wildcards: f"artifacts/tasks/{arm_inversion(wildcards)}/episodes.safetensors",
        reliability=lambda wildcards: reliability_of(arm_inversion(wildcards)),
    output:
        learner=update("artifacts/meta/{arm}/seed{seed}/learner.safetensors"),
        card=update("artifacts/meta/{arm}/seed{seed}/card.json"),
        history=update("artifacts/meta/{arm}/seed{seed}/history.csv"),
        metrics=update("artifacts/meta/{arm}/seed{seed}/metrics.json"),
        provenance=update("artifacts/meta/{arm}/seed{seed}/provenance.json"),
    params:
        job=command("learner"),
        settings=run.settings_of("learner"),
    log:
        "logs/learner/{arm}.{seed}.log",
    priority: 2 # the longest jobs start first; otherwise one of them would run alone at the end
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=3000,
        runtime=240, # minutes
    shell:
        STAGE


rule meta:
    input:
        **run.planned_target(*BEFORE_META, "learner"),
        results=expand("artifacts/meta/{arm}/seed{seed}/provenance.json", arm=ARMS, seed=SEEDS),
