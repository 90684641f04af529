"""``datafree status``: a table of all jobs with their states, and why a job is out of date."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from datafree.workflow import provenance
from datafree.workflow.plan import Plan


def job_states(plan: Plan) -> list[tuple[str, str]]:
    """(job, state) of every job of a plan, in the order of the stages; the state is ``done`` or the reason why the job would compute.

    Compares records with the plan, and hashes no file; ``make verify`` also checks file contents.
    """
    records = provenance.Records()
    return [(job.name, records.stale_reason(job, plan.source) or "done") for job in plan.jobs()]


def print_status(plan: Plan) -> None:
    """Print ``job_states`` as a table."""
    states = job_states(plan)
    table = Table("job", "state", title=f"{sum(state == 'done' for _, state in states)} of {len(states)} jobs done")
    for job, state in states:
        table.add_row(job, state, style="" if state == "done" else "yellow")
    Console().print(table)
    if any(state.startswith(provenance.OTHER_HARDWARE) for _, state in states):
        print("results of other hardware are recomputed; `accept_other_hardware: true` in params.yaml keeps them")
