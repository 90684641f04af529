# Meta-learning: one learner per arm and seed; those of a shard share a process.
BEFORE_META = ("images", "teacher", "meta_generator", "invert", "episodes", "reinforce", "search")


def arm_of(wildcards):
    return first_job("learner", wildcards)["arm"]


def arm_inversion(wildcards):
    return study["meta"]["arms"][arm_of(wildcards)]["inversion"]


rule learner:
    message:
        "meta-learners of shard {wildcards.shard}"
    input:
        unpack(run.planned("learner")),
        unpack(lambda wildcards: reinforced_input(study["meta"]["arms"][arm_of(wildcards)])),
        after=lambda wildcards: searches("learner", arm_of(wildcards)),
        zoo=ZOO,
        pools=lambda wildcards: pool_index(arm_inversion(wildcards)),
        episodes=lambda wildcards: f"artifacts/tasks/{arm_inversion(wildcards)}/episodes.safetensors",
        reliability=lambda wildcards: reliability_of(arm_inversion(wildcards)),
    output:
        update(shard_file("learner", "{shard}")),
    params:
        job=shard_command(
            "learner",
            inputs=lambda wildcards: searched_architecture("learner", arm_of(wildcards)),
            outputs={
                "learner": "artifacts/meta/{arm}/seed{seed}/learner.safetensors",
                "card": "artifacts/meta/{arm}/seed{seed}/card.json",
                "history": "artifacts/meta/{arm}/seed{seed}/history.csv",
                "metrics": "artifacts/meta/{arm}/seed{seed}/metrics.json",
                "provenance": "artifacts/meta/{arm}/seed{seed}/provenance.json",
            },
        ),
        settings=run.settings_of("learner"),
    log:
        "logs/shards/learner.{shard}.log",
    priority: 2 # the longest jobs start first; otherwise one of them would run alone at the end
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=3000 + study["reinforcement"]["megabytes"],
        runtime=minutes("learner", 240),
    shell:
        STAGE


rule meta:
    input:
        **run.planned_target(*BEFORE_META, "learner"),
        results=run.shard_files("learner"),
