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


# Augmented and mixed views of the pools with the predictions of all reliable teachers, once for all arms, seeds and searches.
rule reinforce:
    message:
        "reinforced pools of {wildcards.method}"
    input:
        unpack(run.planned("reinforce")),
        zoo=ZOO,
        pools=pool_index("{method}"),
        reliability=reliability_of("{method}"),
    output:
        views=update("artifacts/tasks/{method}/reinforced/views.safetensors"),
        preview=update("artifacts/tasks/{method}/reinforced/preview.png"),
        metrics=update("artifacts/tasks/{method}/reinforced/metrics.json"),
        provenance=update("artifacts/tasks/{method}/reinforced/provenance.json"),
    params:
        job=command("reinforce"),
        settings=run.settings_of("reinforce"),
    log:
        "logs/reinforce/{method}.log",
    priority: 3
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=3000 + study["reinforcement"]["megabytes"],
        runtime=240, # minutes
    shell:
        STAGE


def reinforced_input(member):
    # `member`: the settings of an arm or a search.
    return {"reinforced": f"artifacts/tasks/{member['inversion']}/reinforced/views.safetensors"} if deals.reads_reinforced(member) else {}


rule tasks:
    input:
        **run.planned_target("images", "teacher", "meta_generator", "invert", "episodes", "reinforce"),
        results=expand("artifacts/tasks/{method}/provenance.json", method=METHODS)
        + expand("artifacts/tasks/{method}/reinforced/provenance.json", method=[m for m in METHODS if deals.is_reinforced(study, m)]),
