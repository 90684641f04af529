# Real images, used to train teachers, oracles and the independent classifier, and to evaluate. No inversion reads them.
def image_listing(wildcards):
    # A hash of names, sizes and modification times, so that changed or added images are noticed. The embedded glyphs have no files.
    return listing_hash(settings.data.folder) if settings.data.source is Source.folder else ""


rule images:
    message:
        f"real images: {settings.data.source.value}"
    input:
        job=card("images", "artifacts/data", "seed", "data", computes=settings.data.source is Source.glyphs, data__files=image_listing),
    output:
        train=update("artifacts/data/train.safetensors"),
        validation=update("artifacts/data/validation.safetensors"),
        test=update("artifacts/data/test.safetensors"),
        preview=update("artifacts/data/preview.png"),
        metrics=update("artifacts/data/metrics.json"),
        provenance=update("artifacts/data/provenance.json"),
    params:
        files=arguments,
    log:
        "logs/images.log",
    shell:
        STAGE


rule data:
    input:
        rules.images.output,
