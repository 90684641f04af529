# The report: an HTML page, the few-shot table as text, and a summary as JSON.
REPORTED = ["seed", "data", "zoo", "inversion", "tasks", "meta", "nas", "evaluation"]


def generator_history():
    trained = any(map(starts_from_meta, settings.inversion.methods.values()))
    return {"generator_history": rules.meta_generator.output.history} if trained else {}


rule report_page:
    message:
        "the report"
    input:
        **generator_history(),
        job=card("report_page", "artifacts/report", *REPORTED),
        few_shot=rules.few_shot.output.results,
        quality=rules.inversion_quality.output.quality,
        real_preview=rules.inversion_quality.output.preview,
        data_preview=rules.images.output.preview,
        cards=CARDS,
        reliability=[reliability_of(method) for method in METHODS],
        histories=expand("artifacts/meta/{arm}/seed{seed}/history.csv", arm=ARMS, seed=SEEDS),
        architectures=expand("artifacts/nas/{algorithm}/architecture.json", algorithm=ALGORITHMS),
        drawings=expand("artifacts/nas/{algorithm}/cell.png", algorithm=ALGORITHMS),
        candidates=expand("artifacts/nas/{algorithm}/candidates.csv", algorithm=ALGORITHMS),
        retrained=expand("artifacts/nas/{algorithm}/retrained/metrics.json", algorithm=ALGORITHMS),
        previews=expand("artifacts/inversion/{method}/{teacher}/preview.png", method=METHODS, teacher=TEACHERS[:4]),
    output:
        page=report(update("artifacts/report/report.html"), category="Study", caption="../report/page.rst"),
        table=update("artifacts/report/table.txt"),
        summary=update("artifacts/report/summary.json"),
        provenance=update("artifacts/report/provenance.json"),
    params:
        files=arguments,
    log:
        "logs/report_page.log",
    shell:
        STAGE


rule report:
    input:
        rules.report_page.output,
