# Real images: for the teachers that are trained here, the judge, the oracle and the evaluation. No recovered image depends on them.
def photos(wildcards):
    # A changed or added photo is noticed by name, size and time. The embedded glyphs have no files.
    return listing_hash(settings.data.folder) if settings.data.source is Source.folder else ""


rule images:
    message:
        f"real images: {settings.data.source.value}"
    input:
        job=card("images", "artifacts/data", "seed", "data", computes=settings.data.source is Source.glyphs, data__files=photos),
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
