# Real data again: the judge and the oracle, the quality of recovered images, and the few-shot table.
rule reference:
    message:
        "{wildcards.reference}, trained on real images"
    input:
        job=card(
            "reference", "artifacts/evaluation/{reference}", "seed", "device", "precision", "zoo.training", "evaluation.oracle_steps"
        ),
        train=rules.images.output.train,
        cards=CARDS,
    output:
        network=update("artifacts/evaluation/{reference}/network.safetensors"),
        card=update("artifacts/evaluation/{reference}/card.json"),
        history=update("artifacts/evaluation/{reference}/history.csv"),
        metrics=update("artifacts/evaluation/{reference}/metrics.json"),
        provenance=update("artifacts/evaluation/{reference}/provenance.json"),
    wildcard_constraints:
        reference="oracle|judge",
    params:
        files=arguments,
    log:
        "logs/reference/{reference}.log",
    resources:
        gpu=1,
    shell:
        STAGE


rule inversion_quality:
    message:
        "quality of the recovered images"
    input:
        job=card(
            "inversion_quality",
            "artifacts/evaluation/inversion",
            "seed",
            "device",
            "precision",
            "zoo.training",
            inversion__methods=lambda wildcards: METHODS,
        ),
        train=rules.images.output.train,
        weights=WEIGHTS,
        cards=CARDS,
        judge="artifacts/evaluation/judge/network.safetensors",
        judge_card="artifacts/evaluation/judge/card.json",
        pools=[pool for method in METHODS for pool in pools_of(method)],
    output:
        quality=update("artifacts/evaluation/inversion/quality.json"),
        metrics=update("artifacts/evaluation/inversion/metrics.json"),
        preview=update("artifacts/evaluation/inversion/real.png"),
        provenance=update("artifacts/evaluation/inversion/provenance.json"),
    params:
        files=arguments,
    log:
        "logs/inversion_quality.log",
    resources:
        gpu=1,
    shell:
        STAGE


rule few_shot:
    message:
        "few-shot accuracy on the {config[evaluation][split]} classes"
    input:
        job=card("few_shot", "artifacts/evaluation/few_shot", "seed", "device", "precision", "evaluation"),
        images=f"artifacts/data/{settings.evaluation.split}.safetensors",
        weights=WEIGHTS,
        cards=CARDS,
        learners=expand("artifacts/meta/{arm}/seed{seed}/learner.safetensors", arm=ARMS, seed=SEEDS),
        learner_cards=expand("artifacts/meta/{arm}/seed{seed}/card.json", arm=ARMS, seed=SEEDS),
        oracle="artifacts/evaluation/oracle/network.safetensors",
        oracle_card="artifacts/evaluation/oracle/card.json",
    output:
        results=update("artifacts/evaluation/few_shot/results.json"),
        metrics=update("results/metrics.json"),
        provenance=update("artifacts/evaluation/few_shot/provenance.json"),
    params:
        files=arguments,
    log:
        "logs/few_shot.log",
    resources:
        gpu=1,
    shell:
        STAGE


rule evaluation:
    input:
        rules.inversion_quality.output,
        rules.few_shot.output,
