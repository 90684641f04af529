"""Checks before the first job: configuration, manifest, data and machine together.

This module does not import PyTorch, because Snakemake runs it at every start.
"""

from __future__ import annotations

import os
from pathlib import Path

from datafree.config import FEW_CLASSES, MOST_FEATURES, Config, Source, Views
from datafree.config.combinations import as_text, refuse_changed
from datafree.config.schema import BACKBONES, BackboneConfig, Precision, backbone_family
from datafree.data import SPLITS
from datafree.data.layout import by_domain, class_files, of_domain
from datafree.errors import UserError
from datafree.nas import spaces
from datafree.workflow import hardware
from datafree.workflow.hardware import Hardware
from datafree.zoo.manifest import Entry, read_manifest


def check(config: Config, project: Path) -> list[Entry]:
    """Run all checks and return the teachers of the run, in the order of the manifest.

    ``project`` is the folder of the Snakefile, to which the path of the manifest is relative.

    Raises:
        UserError: names the key or file, the value and what is allowed.
    """
    manifest = project / config.zoo.manifest
    teachers = read_manifest(manifest, config.zoo.limit)
    _check_files(teachers, manifest)
    _check_teachers(config, teachers)
    _check_backbones(config, teachers)
    _check_classes(config, teachers)
    _check_reinforcement(config, teachers)
    _check_search(config)
    _check_data(config, teachers)
    _check_output_folder()
    return teachers


def resolve_hardware(config: Config) -> Hardware:
    """The hardware that jobs compute on; replaces ``auto`` in ``config``.

    Raises:
        UserError: the machine does not have the named device.
    """
    resolved = hardware.resolve(config.device, config.precision.value, config.accept_other_hardware)
    config.device, config.precision = resolved.device, Precision(resolved.precision)
    return resolved


def real_classes(config: Config, teachers: list[Entry]) -> bool:
    """Whether there are real images of any teacher's classes: always for trained teachers, by class name in a folder for others."""
    if any(teacher.train for teacher in teachers):
        return True
    if config.data.folder is None:  # data.source: glyphs
        return False
    names = set(class_files(config.data.folder, "train"))
    return any(names & set(teacher.classes) for teacher in teachers)


def _check_files(teachers: list[Entry], manifest: Path) -> None:
    for teacher in teachers:
        if teacher.file and not (manifest.parent / teacher.file).is_file():
            raise UserError(f"{manifest}: {teacher.name}: file: {manifest.parent / teacher.file} does not exist; correct the path")


def _check_teachers(config: Config, teachers: list[Entry]) -> None:
    size = config.data.image_size
    if size % 8:
        raise UserError(f"data.image_size: got {size}; the generator doubles the resolution three times, use a multiple of 8")
    for teacher in teachers:
        if backbone_family(teacher.architecture.name) not in BACKBONES:
            name = teacher.architecture.name
            raise UserError(f"zoo.manifest: {teacher.name}: architecture.name: got {name!r}; allowed: {', '.join(BACKBONES)}")
        if teacher.input[0] not in (1, 3):
            raise UserError(f"zoo.manifest: {teacher.name}: input is {teacher.input}; allowed: images of 1 or 3 channels")


def _check_backbones(config: Config, teachers: list[Entry]) -> None:
    size = config.data.image_size
    _check_backbone("backbone", config.backbone, size)
    _check_backbone("evaluation.oracle_backbone", config.evaluation.oracle_backbone, size)
    names = [teacher.name for teacher in teachers]
    for name, arm in config.meta.arms.items():
        _check_backbone(f"meta.arms.{name}.backbone", arm.backbone, size)
        if getattr(arm, "start", None) not in (None, "auto", *names):
            raise UserError(f"meta.arms.{name}.start: got {arm.start!r}; allowed: null, auto, or a teacher, such as {names[0]}")
        other = next((t for t in teachers if t.architecture.backbone() != arm.backbone), None) if arm.method == "dro" else None
        if other is not None:
            raise UserError(
                f"meta.arms.{name}.backbone: got {arm.backbone.name} of width {arm.backbone.width}; allowed: the architecture of every "
                f"teacher, but {other.name} is {other.architecture.name} of width {other.architecture.backbone().width}"
            )


def _check_backbone(dotted: str, backbone: BackboneConfig, image_size: int) -> None:
    if backbone.name not in spaces.SPACES:
        if backbone_family(backbone.name) not in BACKBONES:
            raise UserError(f"{dotted}.name: got {backbone.name!r}; allowed: {', '.join([*BACKBONES, *spaces.SPACES])}")
        refuse_changed(dotted, backbone, ["genotype", "cells"], f"with name: {backbone.name}")
    elif not backbone.genotype:
        raise UserError(f"{dotted}.genotype: got {as_text(backbone.genotype)}; give an architecture of {backbone.name}, or `searched`")
    elif backbone.genotype == "searched":
        refuse_changed(dotted, backbone, ["cells"], "with genotype: searched")
    else:
        try:
            spaces.SPACES[backbone.name](backbone.width, backbone.cells, image_size).decode(backbone.genotype)
        except UserError as error:
            raise UserError(f"{dotted}.{error}") from None


def _check_classes(config: Config, teachers: list[Entry]) -> None:
    smallest = min(teachers, key=lambda teacher: teacher.class_count)
    if config.tasks.way > smallest.class_count:
        raise UserError(
            f"tasks.way: got {config.tasks.way}; allowed: at most {smallest.class_count}, the classes of teacher {smallest.name}"
        )
    if config.tasks.shot + config.tasks.query > config.inversion.images_per_class:
        raise UserError(
            f"tasks.query: {config.tasks.query} and {config.tasks.shot} shots need more than "
            f"inversion.images_per_class = {config.inversion.images_per_class}; lower one or raise the other"
        )
    if config.data.source is Source.glyphs:
        for teacher in teachers:
            if teacher.train and teacher.train.classes > config.data.glyphs.classes.train:
                raise UserError(
                    f"zoo.manifest: {teacher.name}: train.classes is {teacher.train.classes}; "
                    f"allowed: at most data.glyphs.classes.train = {config.data.glyphs.classes.train}"
                )


def _check_reinforcement(config: Config, teachers: list[Entry]) -> None:
    """Refuse views that take more space than allowed, before anything is computed; as many images are stored as are recovered at most."""
    if not any(
        getattr(member, "views", None) is Views.reinforced for member in (*config.meta.arms.values(), *config.nas.algorithms.values())
    ):
        return
    settings, classes = config.reinforcement, sum(teacher.class_count for teacher in teachers)
    count = classes * config.inversion.images_per_class * (settings.views + settings.mixed_views)
    numbers = classes + (MOST_FEATURES if classes < FEW_CLASSES else 0)  # float16 per view
    megabytes = -(-count * (3 * config.data.image_size**2 + 2 * numbers) // 2**20)
    if megabytes > settings.megabytes:
        raise UserError(
            f"reinforcement.megabytes: got {settings.megabytes}; {count} views of {config.data.image_size} pixels with predictions of "
            f"{classes} classes take {megabytes}; raise it, or lower views, mixed_views or inversion.images_per_class"
        )


def _check_search(config: Config) -> None:
    for name, algorithm in config.nas.algorithms.items():
        if algorithm.space not in spaces.SPACES:
            raise UserError(f"nas.algorithms.{name}.space: got {algorithm.space!r}; allowed: {', '.join(spaces.SPACES)}")
        space = spaces.of(algorithm, config.data.image_size)
        cheapest = space.cheapest()
        for key, cost in (("max_macs", space.macs), ("max_parameters", space.parameters)):
            limit, smallest = getattr(algorithm, key, None), cost(cheapest)
            if limit and limit < smallest:
                raise UserError(
                    f"nas.algorithms.{name}.{key}: got {limit}; the smallest architecture of {space.name} needs {smallest} with "
                    f"channels = {algorithm.channels} and cells = {algorithm.cells}"
                )


def _check_data(config: Config, teachers: list[Entry]) -> None:
    if config.data.folder is None:  # data.source: glyphs
        return
    splits = {split: class_files(config.data.folder, split) for split in SPLITS}
    for teacher in teachers:
        if teacher.train:
            of, count = f"the classes of {teacher.train.domain or 'train'}", len(of_domain(splits["train"], teacher.train.domain))
            if teacher.train.classes > count:
                raise UserError(f"zoo.manifest: {teacher.name}: train.classes is {teacher.train.classes}; allowed: at most {count}, {of}")
    evaluation, classes = config.evaluation, splits[config.evaluation.split]
    for domain, places in (by_domain(classes) if evaluation.by_domain else {"": list(classes)}).items():
        if evaluation.way > len(places):
            of = f"the classes of {evaluation.split}{' in ' if domain else ''}{domain}"
            raise UserError(f"evaluation.way: got {evaluation.way}; allowed: at most {len(places)}, {of}")
    name, files = min(classes.items(), key=lambda item: len(item[1]))
    if max(evaluation.shots) + evaluation.query > len(files):
        raise UserError(
            f"evaluation.query: {evaluation.query} and {max(evaluation.shots)} shots need more images than class {name} of "
            f"{evaluation.split} has, {len(files)}; lower one or add images"
        )


def _check_output_folder() -> None:
    for folder in (Path("artifacts"), Path("logs"), Path(".datafree")):
        existing = folder if folder.exists() else Path()
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"{folder.absolute()}: cannot write here; change its permissions, or run in another folder (--directory)")
