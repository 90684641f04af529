"""Reading the cards of teachers, without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datafree import artifacts
from datafree.workflow.indexes import read_index


def read_cards(zoo: Path) -> list[dict[str, Any]]:
    """The cards of all teachers of an index, in its order."""
    return [artifacts.read_json(member.path("card.json")) for member in read_index(zoo)]
