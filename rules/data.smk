# Real images: for the teachers that are trained here, the judge, the oracle and the evaluation. No recovered image depends on them.
rule images:
    message:
        "real images of the {config[data][source]} data"
    input:
        job=card("images", "artifacts/data", "seed", "data"),
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
