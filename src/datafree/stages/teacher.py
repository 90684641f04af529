"""Stage ``teacher``: train, copy or download one teacher of the manifest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from datafree import artifacts, devices
from datafree.config import TeacherTrainingConfig, typed
from datafree.data.images import ImageSet
from datafree.data.layout import of_domain
from datafree.errors import UserError
from datafree.stages.files.image_sets import read_image_set
from datafree.workflow.provenance import Job
from datafree.zoo import hashing, sources
from datafree.zoo.backbones import Classifier, Normalise
from datafree.zoo.manifest import Entry
from datafree.zoo.plausibility import has_trained_statistics
from datafree.zoo.teachers import empty_network, load_checkpoint, make_card
from datafree.zoo.training import accuracy, hold_out, logits_of, train_classifier, with_label_noise

FOLDER = "artifacts/zoo/{teacher}"
READS = ("teachers.{teacher}",)  # the manifest entry, and training settings and seed, or path and hash of the file
CACHE = Path(".datafree/downloads")


def run(job: Job) -> None:
    """Input: ``train`` (image set) to train a teacher. Outputs: ``weights``, ``card``."""
    described = job.config[f"teachers.{job.wildcards['teacher']}"]
    entry: Entry = typed(Entry, described["entry"])
    if entry.train:
        network, card = _train(entry, described, job)
    else:
        path = _fetch(entry, described)
        classes = sources.class_names(entry)
        network = load_checkpoint(entry, path, len(classes))
        card = make_card(entry, classes, entry.origin, hashing.sha256(path), None)
    artifacts.write_tensors(job.output("weights"), network.state_dict())
    measured = {"sha256": card["sha256"] or artifacts.sha256(job.output("weights")), "trained_statistics": has_trained_statistics(network)}
    artifacts.write_json(job.output("card"), {**card, **measured})


def _fetch(entry: Entry, described: dict[str, Any]) -> Path:
    if not entry.file:
        return sources.fetch(entry, Path(), CACHE)
    file = Path(described["file"])
    if hashing.sha256(file) != described["file_sha256"]:
        raise UserError(f"{file}: its content changed after the run started; start the run again")
    return sources.fetch(dataclasses.replace(entry, file=file.name), file.parent, CACHE)


def _train(entry: Entry, described: dict[str, Any], job: Job) -> tuple[Classifier, dict]:
    data = read_image_set(job.input("train"))
    settings = typed(TeacherTrainingConfig, described["training"])
    assert entry.train is not None
    seed = devices.derive_seed(described["seed"], "teacher", entry.train.seed)
    classes = draw_classes(data, entry, seed)
    train, held = (part.of_classes(classes) for part in hold_out(data, settings.held_out, described["seed"]))
    train = with_label_noise(train, entry.train.label_noise, seed)
    steps = settings.steps if entry.train.steps is None else entry.train.steps
    normalise = Normalise(entry.mean, entry.std, entry.input)
    network = empty_network(entry, len(classes), seed)
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        train_classifier(
            network, normalise, train, steps=steps, batch_size=settings.batch_size,
            learning_rate=settings.learning_rate, seed=seed, device=device, label=entry.name,
        )  # fmt: skip
        held_out_accuracy = accuracy(logits_of(network, normalise, held.images, device), held.labels)
    measured = {"mean": held_out_accuracy, "n": len(held.labels)}
    return network, make_card(entry, train.classes, entry.origin, "", measured)


def draw_classes(data: ImageSet, entry: Entry, seed: int) -> list[int]:
    """Labels of the classes of the training split that are sampled for a trained teacher.

    Raises:
        UserError: the training split has fewer classes.
    """
    import torch

    assert entry.train is not None
    candidates = of_domain(data.classes, entry.train.domain)
    if entry.train.classes > len(candidates):
        where = f" of {entry.train.domain}" if entry.train.domain else ""
        raise UserError(
            f"zoo.manifest: {entry.name}: train.classes is {entry.train.classes}; the training split has {len(candidates)} classes{where}"
        )
    order = torch.randperm(len(candidates), generator=devices.generator(seed, "classes"))
    return [candidates[index] for index in order[: entry.train.classes].tolist()]
