"""Rank correlation of data-free architecture search with the true accuracies of NAS-Bench-201.

    python benchmarks/unpack_mosaics.py data/cifar10 test=cifar10_test.npz
    python benchmarks/nas_ranking.py --table data/nasbench201.npz --checkpoints data/checkpoints --images data/cifar10 \\
        --output build/nas-ranking --seeds 0 1 2

``--table`` is an npz file with the ground truth: ``ops`` uint8 [cells, 6] with ``op_name`` str [5], and ``--accuracy``, a float column
[cells] of true accuracies in %. The teachers are the classifiers of ``--manifest``, all of the same classes, their files in
``--checkpoints``; ``--images`` has real images, ``test/<class>/<image>``, for the arms that search on them. The arms are those of
``--study``, a YAML file; see ``benchmarks/nas_ranking.yaml``.

For every arm and seed a supernet is trained on the arm's images and signal, and scores the same random sample of the table's cells.
Zero-cost proxies score the same cells, and whole searches are run. If the table does not have the result of a search, its accuracy is that
of the search's best scored cell in the table, and is marked. ``--output`` receives ``results.json``, ``table.md`` and ``ranking.png``. The
same command resumes an interrupted run.
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
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import yaml
from cifar10_student import SIZE, read_classifiers, recover
from nas_ranking_table import plot, rank_correlation, table
from recovered_fraction import noise_pool, with_soft_labels

from datafree import artifacts, config, devices
from datafree.checkpoints import Checkpoint
from datafree.data.folder import folder_images
from datafree.data.images import ImageSet
from datafree.distillation.joined_pools import JoinedPools
from datafree.errors import UserError, exit_on_user_error
from datafree.nas import one_shot
from datafree.nas.algorithms import ALGORITHMS
from datafree.nas.proxy_scores import proxy_measures, proxy_scores
from datafree.nas.space import Genotype
from datafree.nas.spaces.nasbench201.space import NasBench201Space
from datafree.progress import progress
from datafree.tasks.pools import Pool, real_pool
from datafree.workflow import hardware
from datafree.zoo.teachers import Teacher
from datafree.zoo.training import logits_of

DATA, SIGNALS = ("real", "recovered", "noise"), ("hard", "one", "many")
CHECKPOINT_SECONDS = 20.0


@dataclasses.dataclass(frozen=True)
class Arm:
    """The images and the training signal of a supernet.

    ``signal``: ``hard`` = the images' labels; ``one`` = the teacher's probabilities; ``many`` = the mean of all classifiers' probabilities.
    """

    name: str
    data: str
    signal: str
    inversion: config.InversionConfig
    supernet: dict[str, Any]  # changes to the study's settings

    @classmethod
    def read(cls, name: str, spec: dict[str, Any], common: dict[str, Any]) -> Arm:
        """From the study's YAML; an arm's ``recovery``, ``inversion`` and ``supernet`` override the common ones; see nas_ranking.yaml.

        Raises:
            UserError: an unknown kind of images or signal, or invalid settings.
        """
        for key, allowed in (("data", DATA), ("signal", SIGNALS)):
            if spec.get(key) not in allowed:
                raise UserError(f"arms.{name}.{key}: got {spec.get(key)!r}; allowed: {', '.join(allowed)}")
        method = spec.get("recovery", {})
        if "method" not in method:  # the common settings do not apply to another method
            method = config.merge(common["recovery"], method)
        shared = config.merge(common.get("inversion", {}), spec.get("inversion", {}))
        shared |= {"images_per_class": common["images_per_class"], "methods": {"study": method}}
        tree = {"inversion": shared, "meta": {"arms": {}}, "nas": {"algorithms": {}}}
        return cls(name, spec["data"], spec["signal"], config.resolve(tree).inversion, spec.get("supernet", {}))

    @property
    def images_key(self) -> str:
        """Identifies the images by all settings that they depend on: arms that differ only in their signal share them."""
        if self.data != "recovered":
            return self.data
        text = json.dumps(config.as_tree(self.inversion), sort_keys=True)
        return "recovered-" + hashlib.sha256(text.encode()).hexdigest()[:12]


def read_table(path: Path, column: str) -> dict[Genotype, float]:
    """The true accuracy in % of every cell of the table.

    Raises:
        UserError: the file is no such table.
    """
    try:
        with np.load(path) as file:
            names, cells, accuracy = file["op_name"][file["ops"]], file["ops"], file[column]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: expected arrays ops, op_name and {column} ({str(error).splitlines()[0]}); name another --table") from None
    assert len(cells) == len(accuracy)
    return {tuple(map(str, row)): float(value) for row, value in zip(names, accuracy, strict=True)}


@dataclasses.dataclass
class Study:
    """The inputs of all measurements, and the results so far."""

    space: NasBench201Space
    truth: dict[Genotype, float]
    cells: list[Genotype]  # the random sample to rank
    teacher: Teacher
    classifiers: list[Teacher]  # all, including the teacher
    images: Path | None
    supernet: dict[str, Any]
    output: Path
    device: torch.device
    results: dict[str, Any]

    def fill(self, table: str, key: str, compute: Callable[[], dict[str, Any]]) -> None:
        """Compute and save an entry of the results with its cost in time, unless it exists."""
        if key in self.results[table]:
            return
        cpu, wall = time.process_time(), time.perf_counter()
        entry = compute()
        cost = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
        self.results[table][key] = {**entry, **cost}
        artifacts.write_json(self.output / "results.json", self.results)

    def pool(self, arm: Arm, seed: int) -> Pool:
        """The images of an arm, with the targets of its signal as soft labels."""
        images_seed = devices.derive_seed(seed, "images", arm.images_key)
        if arm.data == "real":
            if self.images is None:
                raise UserError(f"--images: not given, but arm {arm.name} searches on real images; give them, or choose with --only")
            data = folder_images(self.images, "test", SIZE)
            if len(data.classes) != len(self.teacher.classes):
                raise UserError(f"--images: {len(data.classes)} classes under test/; expected {len(self.teacher.classes)}")
            data = ImageSet(data.images, data.labels, self.teacher.classes)
            pool = with_soft_labels(real_pool(data, per_class=arm.inversion.images_per_class), self.teacher)
        elif arm.data == "noise":
            pool = noise_pool(self.teacher, arm.inversion.images_per_class, SIZE, images_seed)
        else:
            path = self.output / "pools" / f"{arm.images_key}-{seed}.safetensors"
            pool = recover(self.teacher, arm.inversion, arm.inversion.methods["study"], images_seed, path)
        return dataclasses.replace(pool, soft_labels=self.targets(pool, arm.signal))

    def pools(self, arm: Arm, seed: int) -> JoinedPools:
        """The pool of an arm in the form that searches take."""
        pool = self.pool(arm, seed)
        with torch.autocast(self.device.type, enabled=False):  # autocast does not support float16, the type of the targets
            return JoinedPools.join([pool], self.teacher.normalise)

    def targets(self, pool: Pool, signal: str) -> torch.Tensor:
        """The targets of a signal: float16 [N, K]."""
        if signal == "hard":
            return torch.nn.functional.one_hot(pool.labels, len(pool.classes)).half()
        if signal == "one":
            return pool.soft_labels
        predictions = [logits_of(each.network, each.normalise, pool.images, self.device).softmax(1) for each in self.classifiers]
        return torch.stack(predictions).mean(0).half().cpu()

    def rank(self, arm: Arm, seed: int) -> None:
        """Train a supernet for an arm and score every cell of the sample in it. The cost excludes the recovery of the images."""
        if f"{arm.name}/{seed}" in self.results["arms"]:
            return
        pools = self.pools(arm, seed)

        def compute() -> dict[str, Any]:
            settings = self.settings(arm, config.SposConfig)
            path = self.output / "checkpoints" / f"{arm.name}-{seed}.pt"
            checkpoint = Checkpoint(path, "rank", CHECKPOINT_SECONDS)
            trained = one_shot.train(self.space, pools, settings, "supernet", devices.derive_seed(seed, arm.name), self.device, checkpoint)
            measures = [trained(cell) for cell in progress(self.cells, len(self.cells), f"{arm.name}, seed {seed}")]
            checkpoint.clear()
            scores = {"kl": [-measured["kl"] for measured in measures], "agreement": [measured["agreement"] for measured in measures]}
            return {**self.correlation(scores["kl"]), "by_agreement": self.correlation(scores["agreement"]), "scores": scores}

        self.fill("arms", f"{arm.name}/{seed}", compute)

    def settings(self, arm: Arm, kind: type, changes: dict[str, Any] | None = None) -> Any:
        """The settings of a search with the study's supernet, without limits; with hard labels the temperature is 1."""
        allowed = {field.name for field in dataclasses.fields(kind)}
        tree = {key: value for key, value in {**self.supernet, **arm.supernet, "max_macs": None}.items() if key in allowed}
        tree |= {"channels": self.space.channels, "cells": self.space.cells, **(changes or {})}
        tree |= {"temperature": 1.0} if arm.signal == "hard" else {}
        return config.typed(kind, config.as_tree(kind()) | tree)

    def correlation(self, scores: Sequence[float]) -> dict[str, float]:
        """The rank correlation of the sample's scores with the true accuracies."""
        return rank_correlation(scores, [self.truth[cell] for cell in self.cells])

    def zero_cost(self, name: str, seed: int, batch: int) -> None:
        """Score every cell of the sample by a zero-cost proxy."""

        def compute() -> dict[str, Any]:
            classes = len(self.teacher.classes)
            measures = {
                cell: proxy_measures(name, self.space, cell, classes, batch, seed, self.device)
                for cell in progress(self.cells, len(self.cells), f"{name}, seed {seed}")
            }
            scores = list(proxy_scores(name, self.space, measures).values())
            return {**self.correlation(scores), "scores": scores}

        self.fill("zero_cost", f"{name}/{seed}", compute)

    def search(self, name: str, spec: dict[str, Any], arms: dict[str, Arm], seed: int) -> None:
        """Run a whole search on an arm's images. ``genotype`` is its result; ``accuracy`` is the true accuracy of the best scored cell for
        which the table has a cell with the same canonical form; ``known``: whether that is the result itself."""
        if f"{name}/{seed}" in self.results["searches"]:
            return
        changes = dict(spec)
        arm = arms[changes.pop("arm")]
        pools = self.pools(arm, seed)

        def compute() -> dict[str, Any]:
            settings = self.settings(arm, config.ALGORITHM_TYPES[changes["method"]], changes)
            checkpoint = Checkpoint(self.output / "checkpoints" / f"search-{name}-{seed}.pt", "search", CHECKPOINT_SECONDS)
            search_seed = devices.derive_seed(seed, "search", name)
            result = ALGORITHMS[settings.method](self.space, pools, settings, f"searches.{name}", search_seed, self.device, checkpoint)
            checkpoint.clear()
            by_form: dict[str, list[float]] = {}  # the accuracies of all cells with one canonical form
            for cell, value in self.truth.items():
                by_form.setdefault(self.space.canonical(cell), []).append(value)
            scores = {cell: measures.get("score", -measures.get("kl", 0.0)) for cell, measures in result.measures.items()}
            scores[result.best] = float("inf")
            ranked = sorted(scores, key=scores.__getitem__, reverse=True)
            first = next((cell for cell in ranked if self.space.canonical(cell) in by_form), None)
            accuracy = self.truth.get(first, float(np.mean(by_form[self.space.canonical(first)]))) if first else None
            facts = {"genotype": self.space.encode(result.best), "degenerate": self.space.is_degenerate(result.best)}
            return {**facts, "accuracy": accuracy, "known": first == result.best, "scored": len(result.measures)}

        self.fill("searches", f"{name}/{seed}", compute)


def begin(path: Path, settings: dict[str, Any], cells: list[dict[str, Any]]) -> dict[str, Any]:
    """The results in the output folder, or empty results.

    Raises:
        UserError: the existing results have other settings.
    """
    if path.is_file():
        results = artifacts.read_json(path, "settings", "arms", "zero_cost", "searches", "architectures")
        if results["settings"] != settings:
            raise UserError(f"{path}: was made with {results['settings']}; give another --output")
        return results
    hardware = {"machine": platform.machine(), "cpus": os.cpu_count(), "torch": torch.__version__}
    return {"settings": settings, "hardware": hardware, "architectures": cells, "arms": {}, "zero_cost": {}, "searches": {}}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True, help="NAS-Bench-201 accuracies")
    parser.add_argument("--accuracy", default="test_acc_cifar10", help="the table's column")
    parser.add_argument("--manifest", type=Path, default=Path(__file__).parents[1] / "zoos" / "cifar10-resnets.yaml")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of the manifest's files")
    parser.add_argument("--images", type=Path, help="folder with test/<class>/<image>, for arms on real images")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--study", type=Path, default=Path(__file__).with_suffix(".yaml"))
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="arms, proxies and searches of --study to run; default all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    spec = yaml.safe_load(given.study.read_text(encoding="utf-8"))
    arms = {name: Arm.read(name, arm, spec) for name, arm in spec["arms"].items()}
    truth = read_table(given.table, given.accuracy)
    space = NasBench201Space(spec["channels"], spec["cells"], SIZE)
    cells = Random(0).sample(sorted(truth), min(spec["architectures"], len(truth)))
    described = [{"genotype": space.encode(cell), "accuracy": truth[cell]} for cell in cells]
    machine = hardware.resolve(given.device, "auto")
    with devices.use(machine.device) as device, devices.autocast(device, machine.precision):
        classifiers = read_classifiers(given.manifest, given.checkpoints, device)
        if spec["teacher"] not in classifiers:
            raise UserError(f"{given.study}: teacher: got {spec['teacher']!r}; the manifest has {', '.join(classifiers)}")
        results = begin(given.output / "results.json", {**spec, "accuracy": given.accuracy, "device": device.type}, described)
        teacher, every = classifiers[spec["teacher"]], list(classifiers.values())
        study = Study(space, truth, cells, teacher, every, given.images, spec["supernet"], given.output, device, results)
        measure(study, spec, arms, given.seeds, set(given.only))
    with artifacts.atomic(given.output / "ranking.png") as part:
        plot(study.results, list(arms)).savefig(part, format="png", dpi=120)
    artifacts.write_text(given.output / "table.md", table(study.results, list(arms), spec["zero_cost"], list(spec["searches"])))
    print((given.output / "table.md").read_text(encoding="utf-8"))


def measure(study: Study, spec: dict[str, Any], arms: dict[str, Arm], seeds: list[int], only: set[str]) -> None:
    """Compute all missing results, seed by seed: zero-cost proxies, arms, then whole searches."""
    for seed in seeds:
        for name in spec["zero_cost"]:
            if not only or name in only:
                study.zero_cost(name, seed, spec["zero_cost_batch"])
        for name, arm in arms.items():
            if not only or name in only:
                study.rank(arm, seed)
        for name, changes in spec["searches"].items():
            if not only or name in only:
                study.search(name, changes, arms, seed)


if __name__ == "__main__":
    with exit_on_user_error("nas_ranking"):
        main()
