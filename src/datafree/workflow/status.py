"""A table of what every job left and which of it is out of date, and why."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from datafree.errors import UserError
from datafree.workflow import provenance


def job_states(cards: Path, artifacts: Path) -> list[tuple[str, str]]:
    """(job, state) of every card, sorted by name; the state is ``done`` or the reason why the job would compute.

    Hashes no file: it compares what is recorded with what the last Snakemake run or dry run planned. ``make verify`` looks at the contents
    too.
    """
    recorded = {
        (sidecar["stage"], tuple(sidecar["wildcards"].values())): sidecar
        for path in sorted(artifacts.rglob("provenance.json"))
        if (sidecar := provenance.read_sidecar(path)) is not None
    }
    states = []
    for path in sorted(cards.glob("*/card.json")):
        wanted = provenance.read_sidecar(path)
        if wanted is None:
            continue
        accepted = bool(wanted.get("accept_other_hardware"))
        sidecar = recorded.get((wanted["stage"], tuple(wanted["wildcards"].values())))
        reason = "not yet run" if sidecar is None else provenance.changed_on_disk(sidecar, wanted, accepted)
        states.append(("/".join([wanted["stage"], *wanted["wildcards"].values()]), reason or "done"))
    return states


def print_status(cards: Path) -> None:
    """Print ``job_states`` as a table.

    Raises:
        UserError: no Snakemake run has left a card here.
    """
    states = job_states(cards, Path("artifacts"))
    if not states:
        raise UserError(f"{cards}: no job cards here; run `snakemake -n` first, in the project folder")
    table = Table("job", "state", title=f"{sum(state == 'done' for _, state in states)} of {len(states)} jobs done")
    for job, state in states:
        table.add_row(job, state, style="" if state == "done" else "yellow")
    Console().print(table)
    if any(state.startswith(provenance.OTHER_HARDWARE) for _, state in states):
        print("results of other hardware are made again; `accept_other_hardware: true` in params.yaml keeps them")
