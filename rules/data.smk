# Real images, used to train teachers, oracles and the independent classifier, and to evaluate. No inversion reads them.
rule images:
    message:
        f"real images: {study['data']['source']}"
    input:
        unpack(run.planned("images")),
    output:
        train=update("artifacts/data/train.safetensors"),
        validation=update("artifacts/data/validation.safetensors"),
        test=update("artifacts/data/test.safetensors"),
        preview=update("artifacts/data/preview.png"),
        metrics=update("artifacts/data/metrics.json"),
        provenance=update("artifacts/data/provenance.json"),
    params:
        job=command("images"),
        settings=run.settings_of("images"),
    log:
        "logs/images.log",
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30, # minutes
    shell:
        STAGE


rule data:
    input:
        **run.planned_target("images"),
        results=rules.images.output,
