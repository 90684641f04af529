# Recovering training images from teachers: one shared meta-generator, then one pool per method and teacher.
SHARED = ["inversion.meta_generator", "inversion.loss", "inversion.shift"]


rule meta_generator:
    message:
        "meta-generator across the teachers"
    input:
        job=card("meta_generator", "artifacts/inversion/meta_generator", "seed", "device", "precision", "data.image_size", *SHARED),
        weights=WEIGHTS,
        cards=CARDS,
    output:
        generator=update("artifacts/inversion/meta_generator/generator.safetensors"),
        history=update("artifacts/inversion/meta_generator/history.csv"),
        metrics=update("artifacts/inversion/meta_generator/metrics.json"),
        provenance=update("artifacts/inversion/meta_generator/provenance.json"),
    params:
        files=arguments,
    log:
        "logs/meta_generator.log",
    resources:
        gpu=1,
    shell:
        STAGE


rule invert:
    message:
        "pool of {wildcards.teacher} by {wildcards.method}"
    input:
        job=card(
            "invert",
            "artifacts/inversion/{method}/{teacher}",
            "seed",
            "device",
            "precision",
            *SHARED,
            "inversion.images_per_class",
            inversion__method=lambda wildcards: as_tree(settings.inversion.methods[wildcards.method]),
        ),
        weights="artifacts/zoo/{teacher}/weights.safetensors",
        card="artifacts/zoo/{teacher}/card.json",
        generator=rules.meta_generator.output.generator,
    output:
        images=update("artifacts/inversion/{method}/{teacher}/images.safetensors"),
        metrics=update("artifacts/inversion/{method}/{teacher}/metrics.json"),
        preview=update("artifacts/inversion/{method}/{teacher}/preview.png"),
        provenance=update("artifacts/inversion/{method}/{teacher}/provenance.json"),
    params:
        files=arguments,
    log:
        "logs/invert/{method}/{teacher}.log",
    resources:
        gpu=1,
    shell:
        STAGE


def pools_of(method):
    return expand("artifacts/inversion/{method}/{teacher}/images.safetensors", method=method, teacher=TEACHERS)


rule inversion:
    input:
        expand("artifacts/inversion/{method}/{teacher}/provenance.json", method=METHODS, teacher=TEACHERS),
