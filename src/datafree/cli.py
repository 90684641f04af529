"""The ``datafree`` command: use a learner on your images, print results and job status, run jobs, log to MLflow, check a zoo."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from datafree.errors import UserError, exit_on_user_error, refusals_in_one_line
from datafree.pools_cli import pools_app
from datafree.predict_cli import adapt, card, classify, demo, export, networks
from datafree.zoo_cli import zoo_app

if TYPE_CHECKING:
    from datafree.workflow.plan import Plan


class Commands(TyperGroup):
    """All commands; what the system refuses to one of them, also at its last output, gives one line."""

    def invoke(self, ctx: Any) -> Any:  # a context of click, of which some versions of typer have their own copy
        with refusals_in_one_line():
            result = super().invoke(ctx)
            sys.stdout.flush()  # on a full disk, Python would only mention it when the process ends
            return result


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(zoo_app, name="zoo")
app.add_typer(pools_app, name="pools")
app.command()(adapt)
app.command()(classify)
app.command()(export)
app.command()(card)
app.command()(demo)
app.command()(networks)


@app.callback()
def describe() -> None:
    """Use learners on your images, print results and job status, run jobs, log to MLflow, check a zoo."""


Files = Annotated[list[Path] | None, typer.Argument(help="YAML files; later files override earlier ones; default: params.yaml")]


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="The stage")],
    wildcards: Annotated[list[str], typer.Argument(help="name=value")] = [],  # noqa: B006
    inputs: Annotated[list[str], typer.Option("--input", "-i", help="name=path; repeat a name for a list")] = [],  # noqa: B006
    outputs: Annotated[list[str], typer.Option("--output", "-o", help="name=path")] = [],  # noqa: B006
    shard: Annotated[str, typer.Option(help="Run the jobs of this shard of the stage")] = "",
    shard_file: Annotated[Path | None, typer.Option(help="Written when all jobs of the shard are done: their names")] = None,
) -> None:
    """Run a job of the current run, or the jobs of a shard (called by Snakemake). Jobs whose outputs are up to date are skipped.

    Paths may contain wildcards of the job in braces, as in `zoo/{teacher}/card.json`.
    """
    from datafree import artifacts, gpus
    from datafree.workflow import shards

    plan = _current_plan()
    os.environ[gpus.JOBS_PER_GPU] = str(plan.tree["jobs_per_gpu"])
    input_files: dict[str, str | list[str]] = {}
    for key, path in map(_name_and_value, inputs):
        earlier = input_files.get(key)
        input_files[key] = path if earlier is None else [*([earlier] if isinstance(earlier, str) else earlier), path]
    output_files = dict(map(_name_and_value, outputs))
    if "provenance" not in output_files:
        raise UserError("--output: expected one named provenance, the record of the job; give -o provenance=<path>")
    chosen = dict(map(_name_and_value, wildcards))
    members = plan.shards[name][shard] if shard else [chosen]
    shards.execute_all([plan.job(name, member, input_files, output_files) for member in members], plan.source)
    if shard_file:
        artifacts.write_json(shard_file, {"jobs": members})


@app.command()
def index(
    output: Annotated[Path, typer.Argument(help="The index to write")],
    stage: Annotated[str, typer.Argument(help="The stage")],
    wildcards: Annotated[list[str], typer.Argument(help="name=value")] = [],  # noqa: B006
) -> None:
    """Write the index of the results of a stage for all teachers (called by Snakemake)."""
    from datafree.workflow import indexes

    plan, chosen = _current_plan(), dict(map(_name_and_value, wildcards))
    indexes.write_index(output, [plan.job(stage, {**chosen, "teacher": teacher}) for teacher in plan.teachers])


def _current_plan() -> Plan:
    """The plan of the run that started this process.

    Raises:
        UserError: no run started it.
    """
    from datafree.workflow import plan

    if not (path := os.environ.get(plan.VARIABLE)):
        raise UserError(f"{plan.VARIABLE} is not set; jobs are started by snakemake, which also writes their plan")
    return plan.Plan.read(Path(path))


def _name_and_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise UserError(f"got {text!r}; expected name=value")
    return name, value


@app.command()
def config(
    files: Files = None,
    output: Annotated[Path | None, typer.Option(help="Write to this file, which may be one of the files that are read")] = None,
) -> None:
    """Print the resolved configuration as YAML. With `--output params.yaml`, a preset applies to DVC too."""
    import yaml

    from datafree import artifacts
    from datafree.config import as_written, load

    text = yaml.safe_dump(as_written(load(*(files or [Path("params.yaml")]))), sort_keys=False)
    if output:
        artifacts.write_text(output, text)
    else:
        print(text, end="")


@app.command()
def table() -> None:
    """Print the few-shot table of the last evaluation."""
    from datafree import artifacts
    from datafree.report.tables import plain_table

    print(plain_table(artifacts.read_json("artifacts/evaluation/few_shot/results.json")))


@app.command()
def status(files: Files = None) -> None:
    """Show the state of every job: done, not yet run, or why it is out of date.

    Without FILES, for the settings of the last run, or of params.yaml if there was none.
    """
    from datafree.config import load, resolve
    from datafree.workflow import plan
    from datafree.workflow.status import print_status

    last = None if files else plan.newest_plan()
    settings = resolve(last.settings) if last else load(*(files or [Path("params.yaml")]))
    print_status(plan.make_plan(settings, Path.cwd()))


@app.command()
def stop() -> None:
    """End the run of this folder and its jobs, also jobs whose run was killed; the next run continues from their checkpoints."""
    from datafree.workflow import locks

    ended = locks.stop_all()
    print("\n".join(f"ended: {who}" for who in ended) or "nothing runs in this folder", file=sys.stderr)


@app.command()
def track(
    files: Files = None,
    follow: Annotated[Path | None, typer.Option(help="Log new results of the run with this plan until standard input closes")] = None,
) -> None:
    """Log every finished job to MLflow as one run; jobs that are already logged are skipped. View with `mlflow ui`."""
    from datafree.config import load
    from datafree.workflow import plan, tracking

    planned = plan.Plan.read(follow) if follow else plan.make_plan(load(*(files or [Path("params.yaml")])), Path.cwd())
    tree = {"processor": planned.hardware.processor, **planned.tree}
    group = tracking.group_key(Path.cwd(), tree)
    if follow:
        if not tracking.follow(Path.cwd(), tree, group):
            os.execv(sys.executable, sys.orig_argv)
    else:
        print(f"{tracking.log_all(Path.cwd(), tree, group)} runs logged", file=sys.stderr)


def main() -> None:
    """Run the command line; a user's mistake gives one line on standard error and exit status 2."""
    with exit_on_user_error("datafree"):
        app()


if __name__ == "__main__":
    main()
