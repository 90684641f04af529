# Few-shot episodes over the recovered pools.
rule episodes:
    message:
        "episodes over the pools of {wildcards.method}"
    input:
        job=card("episodes", "artifacts/tasks/{method}", "seed", "tasks"),
        pools=lambda wildcards: pools_of(wildcards.method),
        cards=CARDS,
    output:
        episodes=update("artifacts/tasks/{method}/episodes.safetensors"),
        metrics=update("artifacts/tasks/{method}/metrics.json"),
        provenance=update("artifacts/tasks/{method}/provenance.json"),
    params:
        files=arguments,
    log:
        "logs/episodes/{method}.log",
    shell:
        STAGE


rule tasks:
    input:
        expand("artifacts/tasks/{method}/provenance.json", method=METHODS),
