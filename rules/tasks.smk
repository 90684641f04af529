# Teacher reliability, measured on the recovered pools, and training episodes over the pools of reliable teachers.
rule episodes:
    message:
        "episodes over the pools of {wildcards.method}"
    input:
        job=card("episodes", "artifacts/tasks/{method}", "seed", "tasks"),
        pools=lambda wildcards: pools_of(wildcards.method),
        weights=WEIGHTS,
        cards=CARDS,
    output:
        episodes=update("artifacts/tasks/{method}/episodes.safetensors"),
        reliability=update("artifacts/tasks/{method}/reliability.json"),
        metrics=update("artifacts/tasks/{method}/metrics.json"),
        provenance=update("artifacts/tasks/{method}/provenance.json"),
    params:
        files=arguments,
    log:
        "logs/episodes/{method}.log",
    resources:
        gpu=1,
    shell:
        STAGE


def reliability_of(method):
    return f"artifacts/tasks/{method}/reliability.json"


rule tasks:
    input:
        expand("artifacts/tasks/{method}/provenance.json", method=METHODS),
