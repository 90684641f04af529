"""Inversion methods side by side: on the same teachers and seeds, what they cost and what their images are worth.

    python benchmarks/inversion_methods.py --run . --output build/inversion-study --teachers 3 --seeds 0 1 2

``--run`` is a folder in which the pipeline has run up to ``evaluation/judge`` and ``evaluation/oracle``, of any data and zoo. Its teachers
are recovered by every row of ``--methods`` (a YAML file; see ``benchmarks/inversion_methods.yaml``), one after the other so that a busy
machine slows all alike, after a warm-up. ``--output`` receives ``results.json``, ``table.md`` and the pools. What ``results.json`` has is
not done again.

Quality is measured on real images of the teachers' own classes and, for what a learner gets from the pools, on the validation classes.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from inversion_table import of_seeds, table

from datafree import artifacts, config, devices
from datafree.checkpoints import Checkpoint
from datafree.config.schema import starts_from_meta
from datafree.data.images import ImageSet
from datafree.errors import UserError, told_in_one_line
from datafree.evaluation.frechet import frechet_distance, teacher_features
from datafree.evaluation.inversion_quality import Judge, jury, spread, teacher_confidence, transfer
from datafree.evaluation.recovered_fraction import downstream_accuracies, noise_pool, real_pool
from datafree.inversion import METHODS
from datafree.inversion.auxiliary_teachers import auxiliary_teachers_of
from datafree.inversion.generator import Generator, new_generator
from datafree.inversion.meta_generator import train_meta_generator
from datafree.stages.files.image_sets import read_image_set
from datafree.stages.files.networks import read_classifier
from datafree.stages.files.teachers import read_teacher
from datafree.tasks.pools import Pool
from datafree.workflow import hardware
from datafree.zoo.backbones import Normalise
from datafree.zoo.teachers import Teacher, common_normalisation, move
from datafree.zoo.training import hold_out

JUDGES = ("judge", "oracle")
WARM_UP = 2  # steps
GENERATOR_KEYS = (
    "meta_generator",
    "loss",
    "shift",
    "augmentation",
    "region",
    "auxiliary_teachers",
)  # of `inversion`: what its training depends on


@dataclass
class Row:
    """One method under one setting; ``shared`` and ``method`` as a stage would get them."""

    name: str
    shared: config.InversionConfig
    method: Any
    arm: config.DistillationArm

    @classmethod
    def read(cls, name: str, spec: dict[str, Any], common: dict[str, Any]) -> Row:
        spec = dict(spec)
        inversion = config.merge(common.get("inversion", {}), spec.pop("inversion", {}))
        arms = {"study": {"method": "distillation", **common.get("distillation", {}), "inversion": name}}
        tree = {"inversion": {**inversion, "methods": {name: spec}}, "meta": {"arms": arms}, "nas": {"algorithms": {}}}
        found = config.resolve(tree)
        return cls(name, found.inversion, found.inversion.methods[name], found.meta.arms["study"])

    @property
    def settings(self) -> dict[str, Any]:
        shared = {key: value for key, value in config.as_tree(self.shared).items() if key != "methods"}
        return {"shared": shared, "method": config.as_tree(self.method), "generator": self.generator_key}

    @property
    def generator_key(self) -> str:
        """Names the meta-generator that the row starts from, by all that its training depends on; empty for a row without one."""
        if not starts_from_meta(self.method):
            return ""
        shared = config.as_tree(self.shared)
        text = json.dumps({key: shared[key] for key in GENERATOR_KEYS}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass
class Study:
    """What is measured on, and what has been found so far."""

    teachers: list[Teacher]  # that are recovered
    zoo: list[Teacher]  # that the meta-generator is trained on
    judges: dict[str, Judge]
    train: ImageSet  # real images that teachers were trained on
    held: ImageSet  # real images of the same classes that nothing was trained on
    validation: ImageSet  # real images of other classes
    normalise: Normalise
    output: Path
    device: torch.device
    results: dict[str, Any] = field(default_factory=dict)

    def keep(self) -> None:
        artifacts.write_json(self.output / "results.json", self.results)

    def missing(self, table: str, key: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The entry, found and kept if it is not there yet."""
        if key not in self.results[table]:
            self.results[table][key] = find()
            self.keep()
        return self.results[table][key]

    # ---- recovery -----------------------------------------------------------------------------------------------------------------------

    def generator(self, row: Row, seed: int) -> Generator:
        """The meta-generator of a row, trained over the zoo if no row has needed it yet."""
        shape = {key: getattr(row.shared.meta_generator, key) for key in ("latent", "width", "conditional")}
        classes = max(len(teacher.classes) for teacher in self.zoo)
        own = devices.derive_seed(seed, "meta_generator")
        made = new_generator(**shape, classes=classes, channels=3, size=self.train.images.shape[-1], seed=own).to(self.device)
        path = self.output / "generators" / f"{row.generator_key}-{seed}.safetensors"

        def train() -> dict[str, Any]:
            cost = self.cost(lambda: train_meta_generator(made, self.zoo, row.shared, own, Checkpoint(None)))
            artifacts.write_tensors(path, made.state_dict())
            return cost

        self.missing("generators", f"{row.generator_key}/{seed}", train)
        made.load_state_dict(artifacts.read_tensors(path))
        return made

    def cost(self, work: Callable[[], Any]) -> dict[str, float]:
        """{cpu_seconds, wall_seconds} of ``work``; on a GPU only the wall time tells."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}

    def recover(self, row: Row, teacher: Teacher, seed: int, method: Any) -> tuple[Pool, list[dict[str, float]], dict[str, float]]:
        start = self.generator(row, seed) if starts_from_meta(method) else None
        kept = []
        own = devices.derive_seed(seed, "invert", row.name, teacher.name)
        size = self.train.images.shape[-1]

        settings = {"size": size, "start": start, "seed": own, "auxiliary_teachers": auxiliary_teachers_of(teacher, self.zoo)}
        cost = self.cost(lambda: kept.append(METHODS[method.method](teacher, method, row.shared, checkpoint=Checkpoint(None), **settings)))
        found = kept[0]
        return Pool(found.images, found.labels, found.soft_labels, teacher.classes), found.history, cost

    def warm_up(self, row: Row) -> None:
        """The first call of anything pays for caches and compiled primitives."""
        self.recover(row, self.teachers[0], 0, dataclasses.replace(row.method, steps=WARM_UP))

    def cell(self, row: Row, teacher: Teacher, seed: int) -> None:
        def find() -> dict[str, Any]:
            pool, history, cost = self.recover(row, teacher, seed, row.method)
            tensors = {"images": pool.images, "labels": pool.labels, "soft_labels": pool.soft_labels}
            artifacts.write_tensors(self.pool_path(row.name, teacher, seed), tensors)
            final = {f"final_{key}": value for key, value in history[-1].items() if key != "step"}
            return {**cost, **self.quality(teacher, pool), **final, "images": len(pool.images)}

        self.missing("cells", f"{row.name}/{seed}/{teacher.name}", find)

    def pool_path(self, row: str, teacher: Teacher, seed: int) -> Path:
        return self.output / "pools" / row / str(seed) / f"{teacher.name}.safetensors"

    # ---- quality ------------------------------------------------------------------------------------------------------------------------

    def quality(self, teacher: Teacher, pool: Pool, real: ImageSet | None = None) -> dict[str, float]:
        """Measures of one pool beside real images: of the held-out ones its distance, of as many it was trained on its features."""
        images, labels = pool.images, pool.labels
        found = teacher_confidence(teacher, images, labels, self.device)
        judges = [judge for judge in self.judges.values() if judge.covers(teacher.classes)]
        if judges:
            found |= jury(judges, teacher.classes, images, labels, self.device)
        for name, judge in self.judges.items():
            if judge.covers(teacher.classes):
                found[f"{name}_accuracy"] = transfer(judge, teacher.classes, images, labels, self.device)["transfer_accuracy"]
        held = real_pool(teacher, self.held, len(self.held.labels))
        distance = spread(teacher, images, labels)["within_class_distance"]
        found["within_class_ratio"] = distance / spread(teacher, held.images, held.labels)["within_class_distance"]
        per_class = len(labels) // len(teacher.classes)
        reference = real_pool(teacher, self.train if real is None else real, per_class).images
        features = [teacher_features(teacher, one, self.device) for one in (images, reference)]
        return {**found, "frechet": frechet_distance(*features)}

    def real_cell(self, teacher: Teacher, per_class: int) -> None:
        """Real images by the same measures: held-out ones, and for the features two halves of those it was trained on."""

        def find() -> dict[str, Any]:
            held = self.quality(teacher, real_pool(teacher, self.held, len(self.held.labels)))
            turned = ImageSet(self.train.images.flip(0), self.train.labels.flip(0), self.train.classes)
            halves = [real_pool(teacher, data, per_class).images for data in (self.train, turned)]
            return {**held, "frechet": frechet_distance(*(teacher_features(teacher, half, self.device) for half in halves))}

        self.missing("cells", f"real/0/{teacher.name}", find)

    # ---- what a learner gets from it ----------------------------------------------------------------------------------------------------

    def downstream(self, name: str, row: Row, evaluation: config.EvaluationConfig, seed: int) -> None:
        """Joint distillation of the recovered teachers on one source of images; ``row`` gives the recipe."""

        def find() -> dict[str, Any]:
            pools, per_class, size = [], row.shared.images_per_class, self.train.images.shape[-1]
            for teacher in self.teachers:
                if name == "real":
                    pools.append(real_pool(teacher, self.train, per_class))
                elif name == "noise":
                    pools.append(noise_pool(teacher, per_class, size, seed))
                else:
                    pools.append(self.read_pool(name, teacher, seed))
            own, found = devices.derive_seed(seed, "downstream"), {}
            cost = self.cost(
                lambda: found.update(
                    downstream_accuracies(
                        self.teachers, pools, row.arm, self.validation, evaluation, normalise=self.normalise, seed=own, device=self.device
                    )
                )
            )
            return {**cost, "accuracy": {str(shot): sum(values) / len(values) for shot, values in found.items()}}

        self.missing("downstream", f"{name}/{seed}", find)

    def read_pool(self, name: str, teacher: Teacher, seed: int) -> Pool:
        tensors = artifacts.read_tensors(self.pool_path(name, teacher, seed), "images", "labels", "soft_labels")
        return Pool(**tensors, classes=teacher.classes)


def read_study(run: Path, output: Path, count: int, run_seed: int, device: torch.device) -> Study:
    """Everything but the rows, from the artifacts of a finished run; the teachers are the first ``count`` by name."""
    root = run / "artifacts"
    names = sorted(path.parent.name for path in (root / "zoo").glob("*/card.json"))
    zoo = [move(read_teacher(root / "zoo" / name / "weights.safetensors", root / "zoo" / name / "card.json"), device) for name in names]
    cards = [artifacts.read_json(root / "zoo" / name / "card.json") for name in names]
    judges = {}
    for name in JUDGES:
        folder = root / "evaluation" / name
        network, normalise = read_classifier(folder / "network.safetensors", folder / "card.json")
        judges[name] = Judge(network, normalise, tuple(artifacts.read_json(folder / "card.json")["classes"]))
    share = config.TeacherTrainingConfig().held_out
    train, held = hold_out(read_image_set(root / "data" / "train.safetensors"), share, run_seed)
    validation = read_image_set(root / "data" / "validation.safetensors")
    mean, std = common_normalisation(cards)
    return Study(zoo[:count], zoo, judges, train, held, validation, Normalise(mean, std), output, device)


def begin(study: Study, rows: list[Row], settings: dict[str, Any]) -> None:
    """Take up what the output folder has.

    Raises:
        UserError: it was made under other settings.
    """
    path = study.output / "results.json"
    if path.is_file():
        study.results = artifacts.read_json(path, "settings", "rows", "cells", "generators", "downstream")
        if study.results["settings"] != settings:
            raise UserError(f"{path}: was made with {study.results['settings']}, not {settings}; give another --output")
    else:
        hardware = {"machine": platform.machine(), "cpus": os.cpu_count(), "torch": torch.__version__, "device": str(study.device)}
        study.results = {"settings": settings, "hardware": hardware, "rows": {}, "cells": {}, "generators": {}, "downstream": {}}
    for row in rows:
        known = study.results["rows"].setdefault(row.name, row.settings)
        if known != row.settings:
            raise UserError(f"{path}: row {row.name} was made with other settings; rename it, or give another --output")
    study.keep()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder with the artifacts of a finished run")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--methods", type=Path, default=Path(__file__).with_suffix(".yaml"))
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="these rows of --methods; default all")
    parser.add_argument("--teachers", type=int, default=3, help="how many are recovered; the meta-generator is trained on all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--run-seed", type=int, default=0, help="`seed` of the run: decides which images were held out")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    spec = yaml.safe_load(given.methods.read_text(encoding="utf-8"))
    rows = [Row.read(name, row, spec) for name, row in spec["rows"].items() if not given.only or name in given.only]
    evaluation = config.typed(config.EvaluationConfig, spec.get("evaluation", {}))
    machine = hardware.resolve(given.device, "auto")
    with devices.use(machine.device) as device, devices.autocast(device, machine.precision):
        study = read_study(given.run, given.output, given.teachers, given.run_seed, device)
        settings = {"teachers": [teacher.name for teacher in study.teachers], "zoo": len(study.zoo)}
        settings |= {"distillation": spec.get("distillation", {}), "evaluation": spec.get("evaluation", {})}
        begin(study, rows, settings)
        measure(study, rows, evaluation, given.seeds)
    found = of_seeds(study.results, given.seeds)
    artifacts.write_text(given.output / "table.md", table(found, list(spec["rows"]), spec["unit"], spec["reference"]))
    print((given.output / "table.md").read_text(encoding="utf-8"))


def measure(study: Study, rows: list[Row], evaluation: config.EvaluationConfig, seeds: list[int]) -> None:
    """Fill in all that is missing: recoveries teacher by teacher, each by all rows in a turning order, then the learners."""
    wanted = {(row.name, seed, t.name) for row in rows for seed in seeds for t in study.teachers}
    # Those without a meta-generator first: its training is timed, too, and should find everything warm.
    for row in sorted(rows, key=lambda row: starts_from_meta(row.method)):
        if any(f"{name}/{seed}/{teacher}" not in study.results["cells"] for name, seed, teacher in wanted if name == row.name):
            study.warm_up(row)
    for teacher in study.teachers:
        study.real_cell(teacher, rows[0].shared.images_per_class)
    for turn, (seed, teacher) in enumerate((seed, teacher) for seed in seeds for teacher in study.teachers):
        for place in range(len(rows)):
            study.cell(rows[(place + turn) % len(rows)], teacher, seed)
    for seed in seeds:
        for name in ("noise", "real"):
            study.downstream(name, rows[0], evaluation, seed)
        for row in rows:
            study.downstream(row.name, row, evaluation, seed)


if __name__ == "__main__":
    with told_in_one_line("inversion_methods"):
        main()
