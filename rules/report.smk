# The report: an HTML page, the few-shot table as text, a summary as JSON, and two tables for plots.
def generator_history():
    return {"generator_history": rules.meta_generator.output.history} if run.plan.trains_meta_generator else {}


rule report_page:
    message:
        "the report"
    input:
        unpack(run.planned("report_page")),
        **generator_history(),
        zoo=ZOO,
        pools=[pool_index(method) for method in METHODS],
        few_shot=rules.few_shot.output.results,
        networks=rules.networks.output.networks,
        times=rules.networks.output.times,
        quality=rules.inversion_quality.output.quality,
        real_preview=rules.inversion_quality.output.preview,
        data_preview=rules.images.output.preview,
        reliability=[reliability_of(method) for method in METHODS],
        after=run.shard_files("learner") + run.shard_files("search") + run.shard_files("retrain"),
    output:
        page=report(update("artifacts/report/report.html"), category="Study", caption="../report/page.rst"),
        table=update("artifacts/report/table.txt"),
        summary=update("artifacts/report/summary.json"),
        accuracies=update("artifacts/report/accuracies.csv"),
        curves=update("artifacts/report/curves.csv"),
        provenance=update("artifacts/report/provenance.json"),
    params:
        job=command(
            "report_page",
            histories=expand("artifacts/meta/{arm}/seed{seed}/history.csv", arm=ARMS, seed=SEEDS),
            architectures=expand("artifacts/nas/{algorithm}/architecture.json", algorithm=ALGORITHMS),
            drawings=expand("artifacts/nas/{algorithm}/cell.png", algorithm=ALGORITHMS),
            candidates=expand("artifacts/nas/{algorithm}/candidates.csv", algorithm=ALGORITHMS),
            retrained=expand("artifacts/nas/{algorithm}/retrained/metrics.json", algorithm=ALGORITHMS),
        ),
        settings=run.settings_of("report_page"),
    log:
        "logs/report_page.log",
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10, # minutes
    shell:
        STAGE


rule report:
    input:
        **run.planned_target(*plans.STAGES),
        results=rules.report_page.output,
