# Evaluation on real images: the independent classifier (judge) and the oracles, the quality of recovered images, the few-shot table.

# Judge and oracles need real images of the teachers' classes; a zoo of downloaded teachers may have none.
REAL_CLASSES = real_classes(settings, teachers)


def reference_files(reference):
    if not REAL_CLASSES:
        return {}
    folder = f"artifacts/evaluation/{reference}"
    return {reference: f"{folder}/network.safetensors", f"{reference}_card": f"{folder}/card.json"}


def oracle_files():
    names = ["oracle" if name == "classifier" else name for name in settings.evaluation.oracles]
    folders = [f"artifacts/evaluation/{name}" for name in names if reference_files(name)]
    files = {"oracles": "network.safetensors", "oracle_cards": "card.json"}
    return {kind: [f"{folder}/{file}" for folder in folders] for kind, file in files.items()} if folders else {}


rule reference:
    message:
        "{wildcards.reference} trained on real images"
    input:
        unpack(lambda wildcards: searched_architecture(wildcards.reference == "searched")),
        job=card(
            "reference",
            "artifacts/evaluation/{reference}",
            "seed",
            "zoo.training",
            "evaluation.oracle_steps",
            evaluation__oracle_backbone=lambda wildcards: (
                None if wildcards.reference in ("judge", "searched") else as_tree(settings.evaluation.oracle_backbone)
            ),
            tasks=lambda wildcards: as_tree(settings.tasks) if wildcards.reference in ("protonet", "maml") else None,
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
        reference="oracle|searched|judge|protonet|maml",
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
        **reference_files("judge"),
        job=card(
            "inversion_quality",
            "artifacts/evaluation/inversion",
            "seed",
            "zoo.training",
            inversion__methods=lambda wildcards: METHODS,
        ),
        train=rules.images.output.train,
        weights=WEIGHTS,
        cards=CARDS,
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
        f"few-shot accuracy on the {settings.evaluation.split} classes"
    input:
        **oracle_files(),
        job=card("few_shot", "artifacts/evaluation/few_shot", "seed", "evaluation"),
        images=f"artifacts/data/{settings.evaluation.split}.safetensors",
        weights=WEIGHTS,
        cards=CARDS,
        learners=expand("artifacts/meta/{arm}/seed{seed}/learner.safetensors", arm=ARMS, seed=SEEDS),
        learner_cards=expand("artifacts/meta/{arm}/seed{seed}/card.json", arm=ARMS, seed=SEEDS),
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
