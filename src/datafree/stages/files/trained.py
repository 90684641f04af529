"""Finding the networks of a project that can learn new classes: its learners and its teachers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datafree import artifacts
from datafree.config import as_tree
from datafree.errors import UserError
from datafree.evaluation.representations import ONE_HEAD
from datafree.predict.files import SUFFIX, is_portable
from datafree.predict.files import read_learner as read_portable
from datafree.predict.network import RepresentationNetwork, TrainedLearner
from datafree.report.tables import single_networks
from datafree.stages.files.learners import read_learner
from datafree.stages.files.networks import read_backbone
from datafree.stages.files.teachers import read_teacher
from datafree.tasks.pools import balanced_rows
from datafree.zoo.backbones import Normalise, fitted, parameter_count
from datafree.zoo.teachers import architecture

META, NAS, ZOO, INVERSION = "artifacts/meta", "artifacts/nas", "artifacts/zoo", "artifacts/inversion"
RESULTS = "artifacts/evaluation/few_shot/results.json"
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
    card = artifacts.read_json(folder / "card.json", "inversion", "input")
    root = folder.resolve().parents[3]  # <project>/artifacts/meta/<arm>/seed<seed>
    results = _results(root)
    mirrored = bool(results.get("mirrored"))
    backbone, _, heads, weights = read_learner(folder / "learner.safetensors", folder / "card.json")
    network = RepresentationNetwork(backbone, Normalise(card["mean"], card["std"], card["input"]), heads, weights, mirrored=mirrored)
    counts = card["teacher_classes"] if heads is not None else []
    sha256 = artifacts.sha256(folder / "learner.safetensors")
    described = {
        **card,
        "teacher_classes": counts,
        "sha256": sha256,
        "accuracy": _accuracy(results, card["arm"]),
        "teachers": _teachers(root),
    }
    return _with_negatives(network, described, root, card["inversion"])


def load_teacher(name: str, project: Path = Path()) -> TrainedLearner:
    """A teacher of a project as a network that can learn new classes.

    Raises:
        UserError: there is none of that name, or a file is missing or damaged.
    """
    folder, known = project / ZOO / name, sorted(path.parent.name for path in (project / ZOO).glob("*/card.json"))
    if name not in known:
        raise UserError(f"{name} is no teacher of this project; allowed: {_listed(known)}")
    card = artifacts.read_json(folder / "card.json", "licence", "source")
    teacher = read_teacher(folder / "weights.safetensors", folder / "card.json")
    results = _results(project)
    mirrored = bool(results.get("mirrored"))
    network = RepresentationNetwork(teacher.network.backbone, teacher.normalise, teacher.network.head, ONE_HEAD, mirrored=mirrored)
    described = {
        "backbone": as_tree(architecture(card)),
        "input": list(teacher.input),
        "mean": card["mean"],
        "std": card["std"],
        "teacher_classes": [len(teacher.classes)],
        "teacher": name,
        "licence": card["licence"],
        "source": card["source"],
        "sha256": artifacts.sha256(folder / "weights.safetensors"),
        "parameters": parameter_count(teacher.network.backbone),
        "accuracy": None,
    }
    return _with_negatives(network, described, project, _any_method(project))


def _of_search(folder: Path, name: str, project: Path) -> TrainedLearner:
    card = artifacts.read_json(folder / "card.json", "input")
    backbone, _ = read_backbone(folder / "network.safetensors", folder / "card.json")
    normalise, mirrored = Normalise(card["mean"], card["std"], card["input"]), bool(_results(project).get("mirrored"))
    network = RepresentationNetwork(backbone, normalise, None, mirrored=mirrored)
    made = {"arm": name, "method": "architecture search", "teacher_classes": [], "teachers": _teachers(project), "accuracy": None}
    described = {**card, **made, "sha256": artifacts.sha256(folder / "network.safetensors")}
    return _with_negatives(network, described, project, _any_method(project))


def methods_with_pools(project: Path = Path()) -> list[str]:
    """The inversion methods of a project that have pools, by name."""
    return sorted(path.parent.name for path in (project / INVERSION).glob("*/index.json"))


def _any_method(project: Path) -> str:
    """The first of ``methods_with_pools``; empty if there is none."""
    return next(iter(methods_with_pools(project)), "")


@dataclass(frozen=True)
class Choice:
    """A network of the last evaluation: its name, whether it is a teacher, its parameters, and the mean accuracies by number of shots."""

    name: str
    is_teacher: bool
    parameters: int
    accuracies: Mapping[str, float]

    @property
    def mean(self) -> float:
        """The accuracy averaged over the numbers of shots, in [0, 1]."""
        return sum(self.accuracies.values()) / len(self.accuracies)


def choices(project: Path = Path()) -> list[Choice]:
    """The single networks of the last evaluation, learners and teachers as they are, the most accurate first."""
    results = _results(project)
    return [
        Choice(row["name"], row["teacher"], row["parameters"], {shot: value["mean"] for shot, value in row["shots"].items()})
        for row in (single_networks(results) if results else [])
    ]


def best_network(max_parameters: int | None = None, project: Path = Path()) -> Choice:
    """The most accurate of ``choices`` with at most ``max_parameters`` in its backbone.

    Raises:
        UserError: the project has no evaluated network, or none is as small.
    """
    known = choices(project)
    if not known:
        raise UserError(
            f"found no evaluated learner in {(project / RESULTS).parent}; run the pipeline, or name an arm or the file of a learner"
        )
    small = [choice for choice in known if max_parameters is None or choice.parameters <= max_parameters]
    if not small:
        smallest = min(choice.parameters for choice in known)
        raise UserError(f"--max-parameters: got {max_parameters}; the smallest network of this project has {smallest}")
    return small[0]


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


def _with_negatives(network: RepresentationNetwork, card: dict[str, Any], project: Path, method: str) -> TrainedLearner:
    """The learner with the representations of ``NEGATIVES`` recovered images of the project."""
    learner = TrainedLearner(network, torch.empty(0, 0), card)
    parts = [learner.represent(images) for images in recovered_images(method, NEGATIVES, project)]  # their size may differ
    if parts:
        return TrainedLearner(network, torch.cat(parts), card)
    with torch.no_grad():
        size = network(torch.zeros(1, *card["input"])).shape[1]
    return TrainedLearner(network, torch.empty(0, size), card)


def _results(project: Path) -> dict[str, Any]:
    path = project / RESULTS
    return artifacts.read_json(path, "rows", "split") if path.is_file() else {}


def _accuracy(results: dict[str, Any], arm: str) -> dict[str, Any] | None:
    """The row of an arm in the last evaluation, with what it was measured on; None if there is none."""
    row = next((row for row in results.get("rows", []) if row["name"] == arm), None)
    if row is None:
        return None
    shots = {shot: {key: value[key] for key in ("mean", "interval", "n")} for shot, value in row["shots"].items()}
    settings = {key: results[key] for key in ("split", "way", "computed_on")}
    return {**settings, "seeds": len(row["seeds"]), "shots": shots}


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
