"""The ``datafree`` command: run jobs, print configuration, results and job status, log to MLflow, check a zoo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from datafree.errors import UserError, exit_on_user_error
from datafree.zoo_cli import zoo_app

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(zoo_app, name="zoo")
Files = Annotated[list[Path] | None, typer.Argument(help="YAML files; later files override earlier ones; default: params.yaml")]


@app.command()
def stage(
    job: Annotated[list[Path], typer.Option(help="A job card; repeat the option for jobs that differ only in wildcards")],
    inputs: Annotated[list[str], typer.Option("--input", "-i", help="name=path; repeat a name for a list")] = [],  # noqa: B006
    outputs: Annotated[list[str], typer.Option("--output", "-o", help="name=path")] = [],  # noqa: B006
) -> None:
    """Run jobs of the pipeline (called by Snakemake). Jobs whose outputs are up to date are skipped.

    Paths may contain wildcards of the job in braces, as in `zoo/{teacher}/card.json`.
    """
    from datafree.workflow import jobs, provenance

    input_files: dict[str, str | list[str]] = {}
    for name, path in map(_name_and_path, inputs):
        earlier = input_files.get(name)
        input_files[name] = path if earlier is None else [*([earlier] if isinstance(earlier, str) else earlier), path]
    output_files = dict(map(_name_and_path, outputs))
    shard = [provenance.read_job(card, input_files, output_files) for card in job]
    if "provenance" not in output_files:
        raise UserError("--output: expected one named provenance, the record of the job; give -o provenance=<path>")
    jobs.execute_all(shard)


def _name_and_path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise UserError(f"got {text!r}; expected name=path")
    return name, path


@app.command()
def config(files: Files = None) -> None:
    """Print the resolved configuration as YAML. Redirect it to a new params.yaml to make a preset permanent."""
    import yaml

    from datafree.config import as_written, load

    print(yaml.safe_dump(as_written(load(*(files or [Path("params.yaml")]))), sort_keys=False), end="")


@app.command()
def table() -> None:
    """Print the few-shot table of the last evaluation."""
    from datafree import artifacts
    from datafree.report.tables import plain_table

    print(plain_table(artifacts.read_json("artifacts/evaluation/few_shot/results.json")))


@app.command()
def status() -> None:
    """Show the state of every job of the last Snakemake run or dry run: done, not yet run, or why it is out of date."""
    from datafree.workflow.status import print_status

    print_status(Path(".datafree/jobs"))


@app.command()
def track(
    files: Files = None,
    follow: Annotated[bool, typer.Option(help="Log new results until standard input closes")] = False,
) -> None:
    """Log every finished job to MLflow as one run; jobs that are already logged are skipped. View with `mlflow ui`."""
    from datafree.config import as_tree, load
    from datafree.workflow import preflight, tracking

    settings = load(*(files or [Path("params.yaml")]))
    tree = {"processor": preflight.resolve_hardware(settings).processor, **as_tree(settings)}
    if follow:
        tracking.follow(Path.cwd(), tree, tracking.group_key(Path.cwd(), tree))
    else:
        print(f"{tracking.log_all(Path.cwd(), tree, tracking.group_key(Path.cwd(), tree))} runs logged", file=sys.stderr)


def main() -> None:
    """Run the command line; a user's mistake gives one line on standard error and exit status 2."""
    with exit_on_user_error("datafree"):
        app()


if __name__ == "__main__":
    main()
