"""A tiny project in which stages run once per session, with jobs as the rules build them."""

from __future__ import annotations

import functools
import importlib
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from datafree.config import as_tree, resolve, select, starts_from_meta
from datafree.data.images import ImageSet
from datafree.stages.files.image_sets import write_image_set
from datafree.workflow.provenance import Job
from datafree.zoo.manifest import Entry, read_manifest
from datafree.zoo.teachers import empty_network

MANIFEST = """
defaults: {architecture: {name: conv4_strided, width: 4}, input: [3, 16, 16], licence: CC0}
teachers:
  - {name: alpha, train: {classes: 4, seed: 0}}
  - {name: beta, train: {classes: 3, seed: 1}, input: [1, 20, 20], mean: [0.4], std: [0.2]} # grey and larger than the data
  - {name: gamma, file: gamma.pth, classes: [real-2, real-0, real-5]}
"""
SETTINGS = {
    "data": {"image_size": 16},
    "zoo": {"manifest": "zoos/z.yaml", "training": {"steps": 6, "batch_size": 16, "learning_rate": 0.01}},
    "inversion": {
        "images_per_class": 6,
        "shift": 1,
        "meta_generator": {"latent": 6, "width": 8, "outer_steps": 2, "inner_steps": 1, "batch_size": 8},
        "methods": {
            "five": {"method": "generator", "steps": 1},
            "fresh": {"method": "generator", "steps": 2, "initialisation": "random", "width": 8},
        },
    },
    "tasks": {"way": 3, "shot": 2, "query": 2, "episodes": 8},
    "meta": {
        "seeds": [0, 4],
        "arms": {
            "bell": {"inversion": "five", "steps": 2, "tasks_per_step": 2, "backbone": {"width": 4}},
            "distillation": {"inversion": "fresh", "steps": 2, "images_per_teacher": 4, "backbone": {"width": 4}},
            "maml": {"inversion": "five", "steps": 2, "inner_steps": 1, "backbone": {"width": 4}, "adaptation": {"steps": 2}},
        },
    },
    "nas": {"algorithms": {"spos": {"inversion": "five"}}},
    "evaluation": {
        "split": "test",
        "way": 3,
        "shots": [1, 2],
        "query": 3,
        "episodes": 6,
        "oracles": ["classifier", "protonet", "maml"],
        "oracle_steps": 3,
    },
}
TEACHERS = ("alpha", "beta", "gamma")
LEARNERS = [(arm, seed) for arm in ("bell", "distillation", "maml") for seed in (0, 4)]


class Project:
    """``job_of`` gives the job of a stage; ``outputs`` runs it once per session, after the jobs that it needs."""

    def __init__(self, root: Path, make_images, precision: str) -> None:
        self.root = root
        self.hardware = {"device": "cpu", "precision": precision, "processor": "any"}
        self.settings = resolve(SETTINGS)
        (root / "zoos").mkdir()
        (root / "zoos" / "z.yaml").write_text(MANIFEST)
        self.entries = {entry.name: entry for entry in read_manifest(root / "zoos" / "z.yaml")}
        torch.save({"state_dict": self.local_checkpoint().state_dict()}, root / "zoos" / "gamma.pth")
        for split, names in (("train", "real"), ("test", "unseen")):
            images, labels = make_images(6, 10, 16, seed=len(split))
            classes = tuple(f"{names}-{label}" for label in range(6))
            write_image_set(root / f"artifacts/data/{split}.safetensors", ImageSet(images, labels, classes))

    def local_checkpoint(self):
        return empty_network(Entry(architecture=self.entries["gamma"].architecture, input=[3, 16, 16]), 3, seed=9)

    @contextmanager
    def inside(self):
        previous = Path.cwd()
        os.chdir(self.root)
        try:
            yield
        finally:
            os.chdir(previous)

    @functools.cache  # noqa: B019  (one project lives as long as the session)
    def outputs(self, stage: str, *wildcards: str | int) -> dict[str, Path]:
        job = self.job_of(stage, *wildcards)
        self.run(job)
        return {name: self.root / path for name, path in job.outputs.items() if name != "provenance"}

    def run(self, job: Job) -> dict[str, bytes]:
        """Run a job, finished or not; the bytes of its outputs."""
        with self.inside():
            importlib.import_module(f"datafree.stages.{job.stage}").run(job)
            return {name: Path(path).read_bytes() for name, path in job.outputs.items() if name != "provenance"}

    def job_of(self, stage: str, *wildcards) -> Job:
        return getattr(self, f"_{stage}")(*wildcards)

    def _job(self, stage, wildcards, folder, keys, derived, inputs, outputs) -> Job:
        config = select(self.settings, *keys) | derived | self.hardware
        files = {name: f"{folder}/{file}" for name, file in {**outputs, "provenance": "provenance.json"}.items()}
        return Job(stage, {name: str(value) for name, value in wildcards.items()}, config, "c0de", inputs, files)

    def _path(self, name: str, stage: str, *wildcards) -> str:
        return str(self.outputs(stage, *wildcards)[name].relative_to(self.root))

    def _zoo(self) -> dict[str, list[str]]:
        return {f"{name}s" if name == "card" else name: [self._path(name, "teacher", t) for t in TEACHERS] for name in ("weights", "card")}

    def _pools(self, method: str) -> list[str]:
        return [self._path("images", "invert", method, teacher) for teacher in TEACHERS]

    def _teacher(self, name: str) -> Job:
        entry = self.entries[name]
        keys = ["seed", "zoo.training"] if entry.train else []
        inputs = {"train": "artifacts/data/train.safetensors"} if entry.train else {"file": f"zoos/{entry.file}"}
        outputs = {"weights": "weights.safetensors", "card": "card.json"}
        return self._job("teacher", {"teacher": name}, f"artifacts/zoo/{name}", keys, {"teacher": as_tree(entry)}, inputs, outputs)

    def _meta_generator(self) -> Job:
        keys = [
            "seed",
            "data.image_size",
            "inversion.meta_generator",
            "inversion.loss",
            "inversion.shift",
            "inversion.augmentation",
            "inversion.auxiliary_teachers",
            "inversion.region",
        ]
        outputs = {"generator": "generator.safetensors", "history": "history.csv", "metrics": "metrics.json"}
        return self._job("meta_generator", {}, "artifacts/inversion/meta_generator", keys, {}, self._zoo(), outputs)

    def _invert(self, method: str, teacher: str) -> Job:
        keys = [
            "seed",
            "data.image_size",
            "inversion.loss",
            "inversion.shift",
            "inversion.augmentation",
            "inversion.auxiliary_teachers",
            "inversion.region",
            "inversion.images_per_class",
        ]
        derived = {"inversion.method": as_tree(self.settings.inversion.methods[method])}
        inputs = {name: self._path(name, "teacher", teacher) for name in ("weights", "card")}
        if self.settings.inversion.methods[method].method != "black_box":
            inputs |= {f"auxiliary_{name}": paths for name, paths in self._zoo().items()}
        if starts_from_meta(self.settings.inversion.methods[method]):
            inputs["generator"] = self._path("generator", "meta_generator")
        outputs = {"images": "images.safetensors", "history": "history.csv", "metrics": "metrics.json", "preview": "preview.png"}
        folder = f"artifacts/inversion/{method}/{teacher}"
        return self._job("invert", {"method": method, "teacher": teacher}, folder, keys, derived, inputs, outputs)

    def _episodes(self, method: str) -> Job:
        inputs = {"pools": self._pools(method), **self._zoo()}
        outputs = {"episodes": "episodes.safetensors", "reliability": "reliability.json", "metrics": "metrics.json"}
        keys = ["seed", "tasks"]
        return self._job("episodes", {"method": method}, f"artifacts/tasks/{method}", keys, {}, inputs, outputs)

    def _learner(self, arm: str, seed: int) -> Job:
        settings = self.settings.meta.arms[arm]
        inputs = {"pools": self._pools(settings.inversion), **self._zoo()}
        for name in ("episodes", "reliability"):
            inputs[name] = self._path(name, "episodes", settings.inversion)
        outputs = {"learner": "learner.safetensors", "card": "card.json", "history": "history.csv", "metrics": "metrics.json"}
        folder, derived = f"artifacts/meta/{arm}/seed{seed}", {"meta.arm": as_tree(settings)}
        return self._job("learner", {"arm": arm, "seed": seed}, folder, ["seed"], derived, inputs, outputs)

    def _reference(self, name: str) -> Job:
        keys = ["seed", "zoo.training", "evaluation.oracle_steps"]
        derived = {"tasks": as_tree(self.settings.tasks)} if name in ("protonet", "maml") else {}
        if name != "judge":
            derived["evaluation.oracle_backbone"] = as_tree(self.settings.evaluation.oracle_backbone)
        inputs = {"train": "artifacts/data/train.safetensors", "cards": self._zoo()["cards"]}
        outputs = {"network": "network.safetensors", "card": "card.json", "history": "history.csv", "metrics": "metrics.json"}
        return self._job("reference", {"reference": name}, f"artifacts/evaluation/{name}", keys, derived, inputs, outputs)

    def _reference_inputs(self, name: str) -> dict[str, str]:
        return {name: self._path("network", "reference", name), f"{name}_card": self._path("card", "reference", name)}

    def _inversion_quality(self) -> Job:
        keys = ["seed", "zoo.training"]
        pools = [path for method in ("five", "fresh") for path in self._pools(method)]
        inputs = {"train": "artifacts/data/train.safetensors", **self._zoo(), "pools": pools, **self._reference_inputs("judge")}
        outputs = {"quality": "quality.json", "metrics": "metrics.json", "preview": "real.png"}
        derived = {"inversion.methods": ["five", "fresh"]}
        return self._job("inversion_quality", {}, "artifacts/evaluation/inversion", keys, derived, inputs, outputs)

    def _few_shot(self) -> Job:
        keys = ["seed", "evaluation"]
        learners = {
            plural: [self._path(name, "learner", arm, seed) for arm, seed in LEARNERS]
            for plural, name in (("learners", "learner"), ("learner_cards", "card"))
        }
        oracles = {
            plural: [self._path(name, "reference", which) for which in ("oracle", "protonet", "maml")]
            for plural, name in (("oracles", "network"), ("oracle_cards", "card"))
        }
        inputs = {"images": "artifacts/data/test.safetensors", **self._zoo(), **learners, **oracles}
        outputs = {"results": "results.json", "metrics": "metrics.json"}
        return self._job("few_shot", {}, "artifacts/evaluation/few_shot", keys, {}, inputs, outputs)


@pytest.fixture(scope="session")
def project(tmp_path_factory, make_images, precision) -> Project:
    return Project(tmp_path_factory.mktemp("project"), make_images, precision)
