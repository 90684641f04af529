# The pipeline: configuration, checks before the first job, one rule file per stage, and the target `all`.
from snakemake.utils import min_version

min_version("9.14")


configfile: f"{workflow.basedir}/params.yaml"


sys.path.insert(0, str(Path(workflow.basedir) / "src"))

include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/zoo.smk"
include: "rules/inversion.smk"
include: "rules/tasks.smk"
include: "rules/nas.smk"
include: "rules/meta.smk"
include: "rules/evaluation.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        rules.report.input,
