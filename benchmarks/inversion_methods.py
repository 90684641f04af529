"""Benchmark of inversion methods: cost, image quality and downstream accuracy on the same teachers and seeds.

    python benchmarks/inversion_methods.py --run . --output build/inversion-study --teachers 3 --seeds 0 1 2

``--run`` is a folder in which the pipeline has produced ``evaluation/judge`` and ``evaluation/oracle``, for any data and zoo. Every row of
``--methods`` (a YAML file; see ``benchmarks/inversion_methods.yaml``) recovers its teachers. After a warm-up the rows alternate, so that
other load on the machine affects them equally. ``--output`` receives ``results.json``, ``table.md`` and the pools; results that are in
``results.json`` already are not measured again.

Image quality is measured against real images of the teachers' classes, downstream accuracy on the validation classes.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
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
from frechet import frechet_distance, teacher_features
from inversion_table import of_seeds, table
from jury import jury
from recovered_fraction import downstream_accuracies, noise_pool, with_soft_labels

from datafree import artifacts, config, devices
from datafree.checkpoints import Checkpoint
from datafree.config.inversions import starts_from_meta
from datafree.data.images import ImageSet
from datafree.errors import UserError, exit_on_user_error
from datafree.evaluation.inversion_quality import Judge, spread, teacher_confidence, transfer
from datafree.inversion import Recovered, Recovery, recover_one
from datafree.inversion.generator import Generator, new_generator
from datafree.inversion.meta_generator import train_meta_generator
from datafree.inversion.rows import OtherTeachers
from datafree.stages.files.image_sets import read_image_set
from datafree.stages.files.networks import read_classifier
from datafree.stages.files.teachers import read_teacher
from datafree.tasks.pools import Pool, real_pool
from datafree.workflow import hardware
from datafree.zoo.backbones import Normalise
from datafree.zoo.plausibility import has_trained_statistics
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
)  # of `inversion`: the settings that the meta-generator's training depends on


@dataclass
class Row:
    """One method with its settings; ``shared`` and ``method`` as a stage gets them, ``arm`` for the downstream accuracy."""

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
        resolved = config.resolve(tree)
        return cls(name, resolved.inversion, resolved.inversion.methods[name], resolved.meta.arms["study"])

    @property
    def settings(self) -> dict[str, Any]:
        shared = {key: value for key, value in config.as_tree(self.shared).items() if key != "methods"}
        return {"shared": shared, "method": config.as_tree(self.method), "generator": self.generator_key}

    @property
    def generator_key(self) -> str:
        """Hash of all settings that the training of the row's meta-generator depends on; empty for a row without one."""
        if not starts_from_meta(self.method):
            return ""
        shared = config.as_tree(self.shared)
        text = json.dumps({key: shared[key] for key in GENERATOR_KEYS}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass
class Study:
    """The teachers, judges and images of a benchmark run, and its results so far."""

    teachers: list[Teacher]  # whose images are recovered
    zoo: list[Teacher]  # on which the meta-generator is trained
    judges: dict[str, Judge]
    train: ImageSet  # real images on which teachers were trained
    held: ImageSet  # real images of the same classes, held out from all training
    validation: ImageSet  # real images of other classes
    normalise: Normalise
    output: Path
    device: torch.device
    results: dict[str, Any] = field(default_factory=dict)

    def write(self) -> None:
        artifacts.write_json(self.output / "results.json", self.results)

    def result(self, table: str, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The entry of ``results``; computed and written to disk if it is missing."""
        if key not in self.results[table]:
            self.results[table][key] = compute()
            self.write()
        return self.results[table][key]

    # ---- recovery -----------------------------------------------------------------------------------------------------------------------

    def generator(self, row: Row, seed: int) -> Generator:
        """The meta-generator of a row; trained over the zoo if no earlier row has trained it."""
        shape = {key: getattr(row.shared.meta_generator, key) for key in ("latent", "width", "conditional")}
        classes = max(len(teacher.classes) for teacher in self.zoo)
        own_seed = devices.derive_seed(seed, "meta_generator")
        generator = new_generator(**shape, classes=classes, channels=3, size=self.train.images.shape[-1], seed=own_seed).to(self.device)
        path = self.output / "generators" / f"{row.generator_key}-{seed}.safetensors"

        def train() -> dict[str, Any]:
            cost = self.cost(
                lambda: train_meta_generator(generator, self.zoo, row.shared.meta_generator, row.shared, own_seed, Checkpoint(None))
            )
            artifacts.write_tensors(path, generator.state_dict())
            return cost

        self.result("generators", f"{row.generator_key}/{seed}", train)
        generator.load_state_dict(artifacts.read_tensors(path))
        return generator

    def cost(self, work: Callable[[], Any]) -> dict[str, float]:
        """{cpu_seconds, wall_seconds} of ``work``; on a GPU only the wall time is meaningful."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}

    def recover(self, row: Row, teacher: Teacher, seed: int, method: Any) -> tuple[Pool, list[dict[str, float]], dict[str, float]]:
        """One teacher's pool, the history and the cost of its recovery."""
        auxiliary = tuple(other for other in self.zoo if other.name != teacher.name and has_trained_statistics(other.network))
        recovery = Recovery(
            teacher, devices.derive_seed(seed, "invert", row.name, teacher.name), Checkpoint(None), OtherTeachers(auxiliary, None)
        )
        settings = {"size": self.train.images.shape[-1], "start": self.generator(row, seed) if starts_from_meta(method) else None}
        results: list[Recovered] = []
        cost = self.cost(lambda: results.append(recover_one(recovery, method, row.shared, **settings)))
        recovered = results[0]
        return Pool(recovered.images, recovered.labels, recovered.soft_labels, teacher.classes), recovered.history, cost

    def warm_up(self, row: Row) -> None:
        """A short recovery that is not measured: first calls fill caches and compile primitives."""
        self.recover(row, self.teachers[0], 0, dataclasses.replace(row.method, steps=WARM_UP))

    def cell(self, row: Row, teacher: Teacher, seed: int) -> None:
        """Recover one teacher by one row with one seed, and measure cost and quality."""

        def compute() -> dict[str, Any]:
            pool, history, cost = self.recover(row, teacher, seed, row.method)
            tensors = {"images": pool.images, "labels": pool.labels, "soft_labels": pool.soft_labels}
            artifacts.write_tensors(self.pool_path(row.name, teacher, seed), tensors)
            final = {f"final_{key}": value for key, value in history[-1].items() if key != "step"}
            return {**cost, **self.quality(teacher, pool), **final, "images": len(pool.images)}

        self.result("cells", f"{row.name}/{seed}/{teacher.name}", compute)

    def pool_path(self, row: str, teacher: Teacher, seed: int) -> Path:
        return self.output / "pools" / row / str(seed) / f"{teacher.name}.safetensors"

    # ---- quality ------------------------------------------------------------------------------------------------------------------------

    def quality(self, teacher: Teacher, pool: Pool, real: ImageSet | None = None) -> dict[str, float]:
        """Measures of one pool: distances within classes relative to held-out images, features relative to as many training images."""
        images, labels = pool.images, pool.labels
        measures = teacher_confidence(teacher, images, labels, self.device)
        judges = [judge for judge in self.judges.values() if judge.covers(teacher.classes)]
        if judges:
            measures |= jury(judges, teacher.classes, images, labels, self.device)
        for name, judge in self.judges.items():
            if judge.covers(teacher.classes):
                measures[f"{name}_accuracy"] = transfer(judge, teacher.classes, images, labels, self.device)["transfer_accuracy"]
        held = real_pool(self.held, teacher.classes)
        distance = spread(teacher, images, labels)["within_class_distance"]
        measures["within_class_ratio"] = distance / spread(teacher, held.images, held.labels)["within_class_distance"]
        per_class = len(labels) // len(teacher.classes)
        reference = real_pool(self.train if real is None else real, teacher.classes, per_class).images
        features = [teacher_features(teacher, pictures, self.device) for pictures in (images, reference)]
        return {**measures, "frechet": frechet_distance(*features)}

    def real_cell(self, teacher: Teacher, per_class: int) -> None:
        """The same measures of real images: of the held-out ones, and for the features of two halves of the training images."""

        def compute() -> dict[str, Any]:
            held = self.quality(teacher, real_pool(self.held, teacher.classes))
            reversed_train = ImageSet(self.train.images.flip(0), self.train.labels.flip(0), self.train.classes)
            halves = [real_pool(data, teacher.classes, per_class).images for data in (self.train, reversed_train)]
            return {**held, "frechet": frechet_distance(*(teacher_features(teacher, half, self.device) for half in halves))}

        self.result("cells", f"real/0/{teacher.name}", compute)

    # ---- downstream accuracy ------------------------------------------------------------------------------------------------------------

    def downstream(self, name: str, row: Row, evaluation: config.EvaluationConfig, seed: int) -> None:
        """Few-shot accuracy after joint distillation on one source of images: ``real``, ``noise`` or a row; ``row`` sets the training."""

        def compute() -> dict[str, Any]:
            pools, per_class, size = [], row.shared.images_per_class, self.train.images.shape[-1]
            for teacher in self.teachers:
                if name == "real":
                    pools.append(with_soft_labels(real_pool(self.train, teacher.classes, per_class), teacher))
                elif name == "noise":
                    pools.append(noise_pool(teacher, per_class, size, seed))
                else:
                    pools.append(self.read_pool(name, teacher, seed))
            settings = {"normalise": self.normalise, "seed": devices.derive_seed(seed, "downstream"), "device": self.device}
            accuracies: dict[int, list[float]] = {}
            cost = self.cost(
                lambda: accuracies.update(downstream_accuracies(self.teachers, pools, row.arm, self.validation, evaluation, **settings))
            )
            return {**cost, "accuracy": {str(shot): sum(values) / len(values) for shot, values in accuracies.items()}}

        self.result("downstream", f"{name}/{seed}", compute)

    def read_pool(self, name: str, teacher: Teacher, seed: int) -> Pool:
        tensors = artifacts.read_tensors(self.pool_path(name, teacher, seed), "images", "labels", "soft_labels")
        return Pool(**tensors, classes=teacher.classes)


def read_study(run: Path, output: Path, count: int, run_seed: int, device: torch.device) -> Study:
    """Teachers, judges and images from the artifacts of a finished run; images are recovered of the first ``count`` teachers by name."""
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
    """Read the earlier results of the output folder into ``study``, or start an empty results file.

    Raises:
        UserError: the folder has results of other settings.
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
        if study.results["rows"].setdefault(row.name, row.settings) != row.settings:
            raise UserError(f"{path}: row {row.name} was made with other settings; rename it, or give another --output")
    study.write()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder with the artifacts of a finished run")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--methods", type=Path, default=Path(__file__).with_suffix(".yaml"))
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="measure only these rows of --methods")
    parser.add_argument("--teachers", type=int, default=3, help="number of teachers to recover; the meta-generator is trained on all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--run-seed", type=int, default=0, help="`seed` of the run, which determines the held-out images")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    spec = yaml.safe_load(options.methods.read_text(encoding="utf-8"))
    rows = [Row.read(name, row, spec) for name, row in spec["rows"].items() if not options.only or name in options.only]
    evaluation = config.typed(config.EvaluationConfig, config.merge(config.as_tree(config.EvaluationConfig()), spec.get("evaluation", {})))
    machine = hardware.resolve(options.device, "auto")
    with devices.use(machine.device) as device, devices.autocast(device, machine.precision):
        study = read_study(options.run, options.output, options.teachers, options.run_seed, device)
        settings = {"teachers": [teacher.name for teacher in study.teachers], "zoo": len(study.zoo)}
        settings |= {"distillation": spec.get("distillation", {}), "evaluation": spec.get("evaluation", {})}
        begin(study, rows, settings)
        measure(study, rows, evaluation, options.seeds)
    results = of_seeds(study.results, options.seeds)
    artifacts.write_text(options.output / "table.md", table(results, list(spec["rows"]), spec["unit"], spec["reference"]))
    print((options.output / "table.md").read_text(encoding="utf-8"))


def measure(study: Study, rows: list[Row], evaluation: config.EvaluationConfig, seeds: list[int]) -> None:
    """Measure all missing results: for every seed and teacher all rows, in rotating order, then the downstream accuracies."""
    # Rows without a meta-generator first: its training is timed as well, and must not include warm-up costs.
    for row in sorted(rows, key=lambda row: starts_from_meta(row.method)):
        if any(f"{row.name}/{seed}/{teacher.name}" not in study.results["cells"] for seed in seeds for teacher in study.teachers):
            study.warm_up(row)
    for teacher in study.teachers:
        study.real_cell(teacher, rows[0].shared.images_per_class)
    for offset, (seed, teacher) in enumerate(itertools.product(seeds, study.teachers)):
        for index in range(len(rows)):
            study.cell(rows[(index + offset) % len(rows)], teacher, seed)
    for seed in seeds:
        for name in ("noise", "real"):
            study.downstream(name, rows[0], evaluation, seed)
        for row in rows:
            study.downstream(row.name, row, evaluation, seed)


if __name__ == "__main__":
    with exit_on_user_error("inversion_methods"):
        main()
