"""``datafree status``: a table of all jobs with their states, and why a job is out of date."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from datafree.errors import UserError
from datafree.workflow import provenance


def job_states(cards: Path, artifacts: Path) -> list[tuple[str, str]]:
    """(job, state) of every job card, sorted by name; the state is ``done`` or the reason why the job would compute.

    Compares records with the cards of the last Snakemake run or dry run, and hashes no file; ``make verify`` also checks file contents.
    """
    records = {
        (record["stage"], tuple(record["wildcards"].values())): record
        for path in sorted(artifacts.rglob("provenance.json"))
        if (record := provenance.read_record(path)) is not None
    }
    states = []
    for path in sorted(cards.glob("*/card.json")):
        card = provenance.read_record(path)
        if card is None:
            continue
        accepted = bool(card.get("accept_other_hardware"))
        record = records.get((card["stage"], tuple(card["wildcards"].values())))
        reason = "not yet run" if record is None else provenance.changed_on_disk(record, card, accepted)
        states.append(("/".join([card["stage"], *card["wildcards"].values()]), reason or "done"))
    return states


def print_status(cards: Path) -> None:
    """Print ``job_states`` as a table.

    Raises:
        UserError: there are no job cards.
    """
    states = job_states(cards, Path("artifacts"))
    if not states:
        raise UserError(f"{cards}: no job cards here; run `snakemake -n` first, in the project folder")
    table = Table("job", "state", title=f"{sum(state == 'done' for _, state in states)} of {len(states)} jobs done")
    for job, state in states:
        table.add_row(job, state, style="" if state == "done" else "yellow")
    Console().print(table)
    if any(state.startswith(provenance.OTHER_HARDWARE) for _, state in states):
        print("results of other hardware are recomputed; `accept_other_hardware: true` in params.yaml keeps them")
