"""A tiny project in which stages run once per session, with jobs as the rules build them."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from datafree import artifacts
from datafree.config import Config, as_tree, references, resolve, starts_from_meta
from datafree.data.images import ImageSet
from datafree.stages.files.image_sets import write_image_set
from datafree.workflow.code import Source
from datafree.workflow.deals import reads_reinforced
from datafree.workflow.hardware import Hardware
from datafree.workflow.plan import Plan, declaration
from datafree.workflow.provenance import RECORD, Job
from datafree.workflow.run import ZOO, pool_index
from datafree.zoo.manifest import Entry, read_manifest
from datafree.zoo.teachers import empty_network
from tests.index_files import write_index

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
            "distillation": {"inversion": "fresh", "steps": 2, "batch_size": 12, "backbone": {"width": 4}},
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
        self.settings = resolve(SETTINGS)
        (root / "zoos").mkdir()
        (root / "zoos" / "z.yaml").write_text(MANIFEST)
        entries = {entry.name: entry for entry in read_manifest(root / "zoos" / "z.yaml")}
        self.entries = entries
        self.local_checkpoint = empty_network(Entry(architecture=entries["gamma"].architecture, input=[3, 16, 16]), 3, seed=9)
        torch.save({"state_dict": self.local_checkpoint.state_dict()}, root / "zoos" / "gamma.pth")
        tree = as_tree(self.settings) | {"references": references(self.settings), "methods": ["five", "fresh"], "image_files": ""}
        tree |= {
            "learners": [],
            "architectures": {"learner": dict.fromkeys(self.settings.meta.arms), "reference": dict.fromkeys(tree["references"])},
        }
        tree["teachers"] = {name: teacher_tree(entry, self.settings, root) for name, entry in entries.items()}
        self.plan = Plan(tree, Hardware("cpu", "any", precision), {"0": list(TEACHERS)}, Source({}))
        for split, names in (("train", "real"), ("validation", "chosen"), ("test", "unseen")):
            images, labels = make_images(6, 10, 16, seed=len(split))
            classes = tuple(f"{names}-{label}" for label in range(6))
            write_image_set(root / f"artifacts/data/{split}.safetensors", ImageSet(images, labels, classes))

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

    def _job(self, stage, wildcards, inputs, outputs) -> Job:
        wildcards = {name: str(value) for name, value in wildcards.items()}
        folder = declaration(stage).folder.format(**wildcards)
        return self.plan.job(
            stage, wildcards, inputs, {name: f"{folder}/{file}" for name, file in {**outputs, "provenance": RECORD}.items()}
        )

    def _path(self, name: str, stage: str, *wildcards) -> str:
        return str(self.outputs(stage, *wildcards)[name].relative_to(self.root))

    def _index(self, path: str, stage: str, *wildcards: str) -> str:
        """Write the index of a stage's results for all teachers, and return its path."""
        files = {t: [str(file.relative_to(self.root)) for file in self.outputs(stage, *wildcards, t).values()] for t in TEACHERS}
        return write_index(path, files, self.root)

    def _zoo(self) -> dict[str, str]:
        return {"zoo": self._index(ZOO, "teacher")}

    def _pools(self, method: str) -> str:
        return self._index(pool_index(method), "invert", method)

    def _teacher(self, name: str) -> Job:
        inputs = {"train": "artifacts/data/train.safetensors"} if name != "gamma" else {}
        return self._job("teacher", {"teacher": name}, inputs, {"weights": "weights.safetensors", "card": "card.json"})

    def changed_teacher(self, name: str, folder: Path, **changes) -> Job:
        """The job of a teacher with another manifest entry, which writes into a folder."""
        job, entry = self.job_of("teacher", name), dataclasses.replace(self.entries[name], **changes)
        described = teacher_tree(entry, self.settings, self.root)
        outputs = {output: str(folder / output) for output in job.outputs}
        return dataclasses.replace(job, config={**job.config, f"teachers.{name}": described}, outputs=outputs)

    def _meta_generator(self) -> Job:
        outputs = {"generator": "generator.safetensors", "history": "history.csv", "metrics": "metrics.json"}
        return self._job("meta_generator", {}, self._zoo(), outputs)

    def _invert(self, method: str, teacher: str) -> Job:
        inputs = {name: self._path(name, "teacher", teacher) for name in ("weights", "card")}
        if self.settings.inversion.methods[method].method != "black_box":
            inputs |= self._zoo()
        if starts_from_meta(self.settings.inversion.methods[method]):
            inputs["generator"] = self._path("generator", "meta_generator")
        outputs = {"images": "images.safetensors", "history": "history.csv", "metrics": "metrics.json", "preview": "preview.png"}
        return self._job("invert", {"method": method, "teacher": teacher}, inputs, outputs)

    def _episodes(self, method: str) -> Job:
        inputs = {"pools": self._pools(method), **self._zoo()}
        outputs = {"episodes": "episodes.safetensors", "reliability": "reliability.json", "metrics": "metrics.json"}
        return self._job("episodes", {"method": method}, inputs, outputs)

    def _reinforce(self, method: str) -> Job:
        inputs = {"pools": self._pools(method), **self._zoo(), "reliability": self._path("reliability", "episodes", method)}
        return self._job("reinforce", {"method": method}, inputs, {"views": "v.safetensors", "preview": "v.png", "metrics": "metrics.json"})

    def _learner(self, arm: str, seed: int) -> Job:
        settings = self.settings.meta.arms[arm]
        inputs = {"pools": self._pools(settings.inversion), **self._zoo()}
        for name in ("episodes", "reliability"):
            inputs[name] = self._path(name, "episodes", settings.inversion)
        if reads_reinforced(as_tree(settings)):
            inputs["reinforced"] = self._path("views", "reinforce", settings.inversion)
        outputs = {"learner": "learner.safetensors", "card": "card.json", "history": "history.csv", "metrics": "metrics.json"}
        return self._job("learner", {"arm": arm, "seed": seed}, inputs, outputs)

    def _reference(self, name: str) -> Job:
        inputs = {"train": "artifacts/data/train.safetensors", **self._zoo()}
        outputs = {"network": "network.safetensors", "card": "card.json", "history": "history.csv", "metrics": "metrics.json"}
        return self._job("reference", {"reference": name}, inputs, outputs)

    def _inversion_quality(self) -> Job:
        judge = {"judge": self._path("network", "reference", "judge"), "judge_card": self._path("card", "reference", "judge")}
        pools = [self._pools(method) for method in ("five", "fresh")]
        inputs = {"train": "artifacts/data/train.safetensors", **self._zoo(), "pools": pools, **judge}
        return self._job("inversion_quality", {}, inputs, {"quality": "quality.json", "metrics": "metrics.json", "preview": "real.png"})

    def _few_shot(self) -> Job:
        oracles = {
            plural: [self._path(name, "reference", which) for which in ("oracle", "protonet", "maml")]
            for plural, name in (("oracles", "network"), ("oracle_cards", "card"))
        }
        inputs = {"images": "artifacts/data/test.safetensors", **self._zoo(), **self._learners(), **oracles}
        return self._job("few_shot", {}, inputs, {"results": "results.json", "metrics": "metrics.json"})

    def _networks(self) -> Job:
        inputs = {"images": "artifacts/data/validation.safetensors", **self._zoo(), **self._learners()}
        return self._job("networks", {}, inputs, {"networks": "networks.json", "times": "times.json"})

    def _learners(self) -> dict[str, list[str]]:
        return {
            plural: [self._path(name, "learner", arm, seed) for arm, seed in LEARNERS]
            for plural, name in (("learners", "learner"), ("learner_cards", "card"))
        }


def teacher_tree(entry: Entry, settings: Config, root: Path) -> dict:
    """What the job of a teacher reads of a plan."""
    trained = {"training": as_tree(settings.zoo.training), "seed": settings.seed, "file": None, "file_sha256": None}
    file = f"zoos/{entry.file}"
    given = {"training": None, "seed": None, "file": file, "file_sha256": artifacts.sha256(root / file) if entry.file else None}
    return {"entry": as_tree(entry), **(trained if entry.train else given)}


@pytest.fixture(scope="session")
def project(tmp_path_factory, make_images, precision) -> Project:
    return Project(tmp_path_factory.mktemp("project"), make_images, precision)
