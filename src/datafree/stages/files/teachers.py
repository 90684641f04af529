"""Reading teachers, the outputs of stage ``teacher``: weights and card."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch

from datafree import artifacts
from datafree.inversion.rows import OtherTeachers
from datafree.workflow.indexes import Member, read_index
from datafree.zoo import loading
from datafree.zoo.backbones import Normalise
from datafree.zoo.teachers import Teacher, TeacherSequence, empty_network, freeze, move


def read_teacher(weights: Path, card_path: Path) -> Teacher:
    """One teacher, frozen, on the CPU.

    Raises:
        UserError: a file is missing or damaged.
    """
    card = artifacts.read_json(card_path, "name", "architecture", "input", "mean", "std", "classes")
    network = empty_network(card, len(card["classes"]))
    loading.fill(network, artifacts.read_tensors(weights), weights)
    return Teacher(
        card["name"], freeze(network), Normalise(card["mean"], card["std"], card["input"]), tuple(card["classes"]), tuple(card["input"])
    )


def read_teachers(zoo: Path) -> list[Teacher]:
    """All teachers of an index, in its order.

    Raises:
        UserError: a file is missing, damaged or not the one of the index.
    """
    return [_read_member(member) for member in read_index(zoo)]


def auxiliary_teachers(zoo: Path, name: str, device: torch.device) -> OtherTeachers:
    """The other teachers of a zoo with trained BatchNorm statistics, in its order, on a device; a teacher is read when it is used.

    ``zoo`` is the index of the teachers, ``name`` the teacher whose images are recovered.
    """
    teachers = _with_trained_statistics(zoo, artifacts.sha256(zoo), device)
    return OtherTeachers(teachers, teachers.places.get(name))


class _ReadWhenUsed(TeacherSequence):
    def __init__(self, members: Sequence[Member], device: torch.device) -> None:
        self._members, self._device = members, device
        self.places = {member.name: place for place, member in enumerate(members)}

    def __len__(self) -> int:
        return len(self._members)

    def at(self, position: int) -> Teacher:
        member = self._members[position]
        return _placed(member.name, tuple(member.files.items()), self._device)


@functools.cache
def _with_trained_statistics(zoo: Path, sha256: str, device: torch.device) -> _ReadWhenUsed:
    """``sha256`` of the index, so that another index under the same path is read anew."""
    members = read_index(zoo)
    trained = [artifacts.read_json(member.path("card.json"), "trained_statistics")["trained_statistics"] for member in members]
    return _ReadWhenUsed([member for member, wanted in zip(members, trained, strict=True) if wanted], device)


@functools.lru_cache(maxsize=128)  # shared by the jobs of a process
def _placed(name: str, files: tuple[tuple[str, str], ...], device: torch.device) -> Teacher:
    return move(_read_member(Member(name, dict(files))), device)


def _read_member(member: Member) -> Teacher:
    return read_teacher(member.path("weights.safetensors"), member.path("card.json"))
