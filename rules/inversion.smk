# Recovering training images from teachers: one shared meta-generator, then one pool per method and teacher.
rule meta_generator:
    message:
        "meta-generator across the teachers"
    input:
        job=card(
            "meta_generator",
            "artifacts/inversion/meta_generator",
            "seed",
            "device",
            "precision",
            "data.image_size",
            "inversion.loss",
            "inversion.shift",
            "inversion.augmentation",
            "inversion.companions",
            "inversion.region",
            "inversion.meta_generator",
        ),
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


def starting_point(wildcards):
    # Only a method that starts from the meta-generator waits for it.
    return {"generator": rules.meta_generator.output.generator} if starts_from_meta(settings.inversion.methods[wildcards.method]) else {}


def companions(wildcards):
    # Methods that ask for statistics show their images to other teachers, too.
    if not settings.inversion.companions or settings.inversion.methods[wildcards.method].method == "black_box":
        return {}
    return {"companion_weights": WEIGHTS, "companion_cards": CARDS}


rule invert:
    message:
        "pool of {wildcards.teacher} by {wildcards.method}"
    input:
        unpack(starting_point),
        unpack(companions),
        job=card(
            "invert",
            "artifacts/inversion/{method}/{teacher}",
            "seed",
            "device",
            "precision",
            "data.image_size",
            "inversion.loss",
            "inversion.shift",
            "inversion.augmentation",
            "inversion.companions",
            "inversion.region",
            "inversion.images_per_class",
            inversion__method=lambda wildcards: as_tree(settings.inversion.methods[wildcards.method]),
        ),
        weights="artifacts/zoo/{teacher}/weights.safetensors",
        card="artifacts/zoo/{teacher}/card.json",
    output:
        images=update("artifacts/inversion/{method}/{teacher}/images.safetensors"),
        history=update("artifacts/inversion/{method}/{teacher}/history.csv"),
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
