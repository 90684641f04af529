"""Finding the networks of a project that can learn new classes: its learners and its teachers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from datafree import artifacts
from datafree.errors import UserError
from datafree.predict import comparison
from datafree.predict.comparison import TEACHER, TEACHERS, Row
from datafree.predict.files import SUFFIX, is_portable
from datafree.predict.files import read_learner as read_portable
from datafree.predict.network import TrainedLearner
from datafree.stages.files import deployable
from datafree.tasks.pools import balanced_rows
from datafree.zoo.backbones import fitted

META, NAS, ZOO, INVERSION = "artifacts/meta", "artifacts/nas", "artifacts/zoo", "artifacts/inversion"
RESULTS, NETWORKS = "artifacts/evaluation/few_shot/results.json", "artifacts/evaluation/networks/networks.json"
TIMES = "times.json"  # beside ``NETWORKS``
NEGATIVES = 256  # recovered images, with which the images to be rejected are compared


def load_learner(source: str | Path, project: Path = Path()) -> TrainedLearner:
    """A learner: of a portable file, of the folder of a learner, or of that name in a project: an arm (its lowest seed), or a search.

    Of a search, it is the network of the resulting architecture that was trained on recovered images; it has no heads.

    Raises:
        UserError: there is none, or a file is missing or damaged.
    """
    path = Path(source)
    if path.suffix == SUFFIX and (is_portable(path) or not (path.parent / "card.json").is_file()):
        return read_portable(path)
    is_arm = (project / META / str(source)).is_dir()
    if not is_arm and (retrained := project / NAS / str(source) / "retrained" / "card.json").is_file():
        return _of_search(retrained.parent, str(source), project)
    folder = path.parent if path.suffix == SUFFIX else path
    if not (folder / "learner.safetensors").is_file():
        folder = _folder_of_arm(project, str(source))
    root = folder.resolve().parents[3]  # <project>/artifacts/meta/<arm>/seed<seed>
    learner = deployable.of_learner(folder / "learner.safetensors", folder / "card.json", mirrored=_mirrored(root))
    described = {**learner.card, "accuracy": _accuracy(root, learner.card["arm"]), "teachers": _teachers(root)}
    return _with_negatives(learner, described, root, learner.card["inversion"])


def load_teacher(name: str, project: Path = Path()) -> TrainedLearner:
    """A teacher of a project as a network that can learn new classes, or several side by side: a name such as ``4 teachers``.

    Raises:
        UserError: there is none of that name, or a file is missing or damaged.
    """
    known, groups = sorted(path.parent.name for path in (project / ZOO).glob("*/card.json")), _groups(project)
    if name not in known and name not in groups:
        raise UserError(f"{name} is no teacher of this project; allowed: {_listed(known + list(groups))}")
    folders, mirrored = [project / ZOO / teacher for teacher in groups.get(name, [name])], _mirrored(project)
    members = [deployable.of_teacher(folder / "weights.safetensors", folder / "card.json", mirrored=mirrored) for folder in folders]
    learner = deployable.side_by_side(members, name) if name in groups else members[0]
    described = {**learner.card, "accuracy": _compared_accuracy(project, TEACHERS if name in groups else TEACHER, name)}
    if name in groups:
        described["teachers"] = [row for row in _teachers(project) if row["name"] in groups[name]]
    return _with_negatives(learner, described, project, _any_method(project))


def _of_search(folder: Path, name: str, project: Path) -> TrainedLearner:
    learner = deployable.of_search(folder / "network.safetensors", folder / "card.json", mirrored=_mirrored(project))
    described = {**learner.card, "arm": name, "teachers": _teachers(project), "accuracy": None}
    return _with_negatives(learner, described, project, _any_method(project))


def methods_with_pools(project: Path = Path()) -> list[str]:
    """The inversion methods of a project that have pools, by name."""
    return sorted(path.parent.name for path in (project / INVERSION).glob("*/index.json"))


def _any_method(project: Path) -> str:
    """The first of ``methods_with_pools``; empty if there is none."""
    return next(iter(methods_with_pools(project)), "")


@dataclass(frozen=True)
class Limits:
    """What a network may cost at most; None: anything. ``latency`` is in milliseconds for one image."""

    parameters: int | None = None
    macs: int | None = None
    latency: float | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) is not None for field in fields(self))


def compared(project: Path = Path()) -> list[Row]:
    """The rows of the last comparison of networks, as ``comparison.read`` gives them.

    Raises:
        UserError: there was none, or there were too few images for one.
    """
    path = project / NETWORKS
    if not path.is_file():
        raise UserError(
            f"found no comparison of the networks of a project, {path}; run the pipeline, or name an arm or the file of a learner"
        )
    rows, reason = comparison.read(path, path.with_name(TIMES))
    if not rows:
        raise UserError(f"the networks of this project were not compared: {reason}; name an arm or the file of a learner")
    return rows


def best_network(limits: Limits, project: Path = Path()) -> Row:
    """The most accurate network of ``compared`` within limits; without limits, of the single networks.

    Raises:
        UserError: as ``compared``, or no network is within the limits.
    """
    known = compared(project)
    for field in fields(limits):
        most = getattr(limits, field.name)
        if most is not None and (least := min(row[field.name] for row in known)) > most:
            raise UserError(f"--max-{field.name}: got {most:g}; the least of a network of this project is {least:.4g}")
    allowed = [row for row in known if _within(row, limits)]
    if not allowed:
        raise UserError("--max-parameters, --max-macs, --max-latency: no network of this project is within all limits; raise one of them")
    return allowed[0]


def _within(row: Row, limits: Limits) -> bool:
    if not limits:
        return len(row["members"]) == 1
    return all(getattr(limits, field.name) is None or row[field.name] <= getattr(limits, field.name) for field in fields(limits))


def _folder_of_arm(project: Path, arm: str) -> Path:
    seeds = (project / META / arm).glob("seed*/learner.safetensors") if arm and "/" not in arm else ()
    found = sorted(seeds, key=lambda path: (len(path.parent.name), path.parent.name))
    if not found:
        arms = {path.parents[1].name for path in (project / META).glob("*/seed*/learner.safetensors")}
        known = sorted(arms | {path.parents[1].name for path in (project / NAS).glob("*/retrained/card.json")})
        raise UserError(f"{arm or 'an empty name'} is no learner's file and no trained arm of this project; allowed: {_listed(known)}")
    return found[0].parent


def recovered_images(method: str, count: int, project: Path = Path()) -> list[torch.Tensor]:
    """About ``count`` recovered images of a project, of as many teachers as possible: uint8 [N, C, H, W] of each; empty without pools."""
    files = sorted((project / INVERSION / method).glob("*/images.safetensors")) if method else []
    teachers = min(len(files), count)
    parts = []
    for number in range(teachers):
        pool = artifacts.read_tensors(files[len(files) * number // teachers], "images", "labels")
        of_teacher = count * (number + 1) // teachers - count * number // teachers
        parts.append(pool["images"][balanced_rows(pool["labels"], of_teacher, torch.Generator().manual_seed(number))])
    return parts


def calibration_images(learner: TrainedLearner, project: Path = Path()) -> torch.Tensor:
    """Recovered images of a project in the size of a learner's input: uint8 [N, 3, S, S].

    Raises:
        UserError: the project has none.
    """
    parts = recovered_images(learner.card.get("inversion") or _any_method(project), NEGATIVES, project)
    if not parts:
        raise UserError(f"--int8: needs recovered images, found none in {project / INVERSION}; run it in the folder of a finished run")
    shape = [3, learner.image_size, learner.image_size]
    return torch.cat([fitted(part.float(), shape).round().clamp(0, 255).to(torch.uint8) for part in parts])


def _with_negatives(learner: TrainedLearner, card: dict[str, Any], project: Path, method: str) -> TrainedLearner:
    """The learner with another card and the representations of ``NEGATIVES`` recovered images of the project."""
    parts = [learner.represent(images) for images in recovered_images(method, NEGATIVES, project)]  # their size may differ
    return TrainedLearner(learner.network, torch.cat([learner.negatives, *parts]), card)


def _read(path: Path, *keys: str) -> dict[str, Any]:
    """A file of the last evaluation; empty if there is none."""
    return artifacts.read_json(path, *keys) if path.is_file() else {}


def _mirrored(project: Path) -> bool:
    """Whether the last evaluation averaged the views of an image and its mirror image."""
    return bool(_read(project / RESULTS, "mirrored").get("mirrored"))


def _compared(project: Path) -> dict[str, Any]:
    path = project / NETWORKS
    return comparison.read_content(path) if path.is_file() else {"rows": []}


def _groups(project: Path) -> dict[str, list[str]]:
    """The teachers side by side that were compared: by name their members."""
    return {row["name"]: row["members"] for row in _compared(project)["rows"] if row["kind"] == TEACHERS}


def _accuracy(project: Path, arm: str) -> dict[str, Any] | None:
    """The row of an arm in the last evaluation, with what it was measured on; None if there is none."""
    results = _read(project / RESULTS, "rows", "split")
    row = next((row for row in results.get("rows", []) if row["name"] == arm), None)
    return _measured(row, results, results["split"], len(row["seeds"])) if row else None


def _compared_accuracy(project: Path, kind: str, name: str) -> dict[str, Any] | None:
    """The row of a network in the last comparison, likewise."""
    content = _compared(project)
    row = next((row for row in content["rows"] if (row["kind"], row["name"]) == (kind, name)), None)
    return _measured(row, content, "validation", 1) if row else None


def _measured(row: Row, settings: Mapping[str, Any], split: str, seeds: int) -> dict[str, Any]:
    shots = {shot: {key: value[key] for key in ("mean", "interval", "n")} for shot, value in row["shots"].items()}
    return {"split": split, "way": settings["way"], "computed_on": settings["computed_on"], "seeds": seeds, "shots": shots}


def _teachers(project: Path) -> list[dict[str, Any]]:
    """Name, number of classes, licence, source and hash of each of a project's teachers."""
    cards = [artifacts.read_json(path, "name", "classes") for path in sorted((project / ZOO).glob("*/card.json"))]
    return [
        {"name": card["name"], "classes": len(card["classes"]), **{key: str(card.get(key, "")) for key in ("licence", "source", "sha256")}}
        for card in cards
    ]


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:20]) or "none, because nothing has been trained here"
    return f"{shown}, and {len(names) - 20} more" if len(names) > 20 else shown
