# Teacher reliability, measured on the recovered pools, and training episodes over the pools of reliable teachers.
rule episodes:
    message:
        "episodes over the pools of {wildcards.method}"
    input:
        unpack(run.planned("episodes")),
        zoo=ZOO,
        pools=pool_index("{method}"),
    output:
        episodes=update("artifacts/tasks/{method}/episodes.safetensors"),
        reliability=update("artifacts/tasks/{method}/reliability.json"),
        metrics=update("artifacts/tasks/{method}/metrics.json"),
        provenance=update("artifacts/tasks/{method}/provenance.json"),
    params:
        job=command("episodes"),
        settings=run.settings_of("episodes"),
    log:
        "logs/episodes/{method}.log",
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=2000,
        runtime=30, # minutes
    shell:
        STAGE


def reliability_of(method):
    return f"artifacts/tasks/{method}/reliability.json"


rule tasks:
    input:
        **run.planned_target("images", "teacher", "meta_generator", "invert", "episodes"),
        results=expand("artifacts/tasks/{method}/provenance.json", method=METHODS),
