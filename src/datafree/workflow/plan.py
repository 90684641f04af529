"""The plan of a run: all settings by value, teachers, hardware and code, as they are when the run starts.

A run writes its plan once, before its first job. All its jobs read this file, so neither an edit of a configuration file, of the manifest
or of the code in the meantime nor another start of Snakemake changes what they compute. A dry run has a plan too, but does not write it.

What a stage reads of the plan is declared beside its code: ``READS``, dotted keys with wildcards in braces, and ``FOLDER``, the place of
its record.
This module imports no PyTorch and no stage: Snakemake imports it at every start.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datafree import artifacts
from datafree.config import Config, as_tree, references, searched_algorithm
from datafree.config import Source as ImageSource
from datafree.data.layout import listing_hash
from datafree.errors import UserError
from datafree.workflow import preflight
from datafree.workflow.code import PACKAGE, Source
from datafree.workflow.deals import Shards, is_reinforced, starts_from_meta_generator
from datafree.workflow.file_hashes import FileHashes
from datafree.workflow.hardware import Hardware
from datafree.workflow.provenance import RECORD, Job
from datafree.zoo.manifest import Entry

FOLDER = Path(".datafree/plans")
VARIABLE = "DATAFREE_PLAN"  # environment variable with the path of the plan, for the jobs of a run
STARTED = ".started"  # suffix of the file, beside the plan, that the rule ``start`` makes
KEPT = 10  # plans that are not deleted
# Parts of a plan's tree that are no sections of params.yaml.
DERIVED = ("teachers", "references", "methods", "learners", "architectures", "image_files")


@dataclass(frozen=True)
class Plan:
    """``tree``: the resolved settings, and what follows from them and from files: ``teachers``, ``references``, ``methods``, ``learners``,
    ``architectures`` (the search whose result is the backbone of a learner or reference), ``image_files``. ``shards``: by stage and
    number the wildcards of the jobs that share a process, in a new plan those of the last run. ``source``: the code.
    """

    tree: Mapping[str, Any]
    hardware: Hardware
    shards: Mapping[str, Shards]
    source: Source
    code: str = ""  # a hash of all code, in a plan that was read from its file

    @property
    def settings(self) -> dict[str, Any]:
        """The sections of params.yaml."""
        return {key: value for key, value in self.tree.items() if key not in DERIVED}

    @property
    def teachers(self) -> list[str]:
        return list(self.tree["teachers"])

    def job(
        self,
        stage: str,
        wildcards: Mapping[str, str],
        inputs: Mapping[str, str | list[str]] | None = None,
        outputs: Mapping[str, str] | None = None,
    ) -> Job:
        """A job of this plan; ``{name}`` in a path stands for the value of that wildcard. Without ``outputs``, it has only its record."""
        declared = declaration(stage)
        config = {key: _look_up(self.tree, key) for key in (key.format(**wildcards) for key in declared.reads)}
        if _computes(stage, self.tree, wildcards):
            config |= asdict(self.hardware)
        outputs = outputs or {"provenance": f"{declared.folder}/{RECORD}"}
        return Job(
            stage,
            dict(wildcards),
            config,
            self.code,
            {name: _fill_wildcards(path, wildcards) for name, path in (inputs or {}).items()},
            {name: str(_fill_wildcards(path, wildcards)) for name, path in outputs.items()},
            self.tree["accept_other_hardware"],
        )

    def jobs(self) -> Iterator[Job]:
        """All jobs of the study, in the order of the stages; each has only its record as output."""
        for stage in STAGES:
            yield from (self.job(stage, chosen) for chosen in self.wildcards_of(stage))

    def wildcards_of(self, stage: str) -> list[dict[str, str]]:
        """The wildcards of every job of a stage."""
        if stage == "meta_generator" and not self.trains_meta_generator:
            return []
        methods = self.tree["methods"]
        if stage == "reinforce":
            methods = [method for method in methods if is_reinforced(self.tree, method)]
        names = {
            "teacher": self.teachers,
            "method": methods,
            "algorithm": list(self.tree["nas"]["algorithms"]),
            "arm": list(self.tree["meta"]["arms"]),
            "seed": [str(seed) for seed in self.tree["meta"]["seeds"]],
            "reference": list(self.tree["references"]),
        }
        wildcards: list[dict[str, str]] = [{}]
        for name in declaration(stage).wildcards:
            wildcards = [{**chosen, name: value} for chosen in wildcards for value in names[name]]
        return wildcards

    @property
    def trains_meta_generator(self) -> bool:
        """Whether an inversion method starts from the meta-generator."""
        return any(starts_from_meta_generator(self.tree, method) for method in self.tree["methods"])

    def write(self, path: Path) -> None:
        """Write the plan, and delete old ones."""
        tree = {"tree": self.tree, "hardware": asdict(self.hardware), "shards": self.shards, "source": self.source.as_tree()}
        tree["code"] = self.source.hash_of_all()
        with artifacts.atomic(path) as part:
            part.write_text(json.dumps(tree, allow_nan=False), encoding="utf-8")
        for old in sorted(path.parent.glob("*.json"))[:-KEPT]:
            old.unlink(missing_ok=True)
            old.with_suffix(STARTED).unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Inverse of ``write``.

        Raises:
            UserError: the file is missing or damaged.
        """
        value = artifacts.read_json(path, "tree", "hardware", "shards", "source", "code")
        return cls(value["tree"], Hardware(**value["hardware"]), value["shards"], Source.from_tree(value["source"]), value["code"])


# In the order in which data flows.
STAGES = (
    "images", "teacher", "meta_generator", "invert", "episodes", "reinforce", "search", "retrain", "learner", "reference",
    "inversion_quality", "few_shot", "networks", "report_page",
)  # fmt: skip


def make_plan(config: Config, project: Path) -> Plan:
    """Check the configuration and what it names, and plan a run on this machine; writes nothing.

    ``project`` is the folder of the Snakefile, to which the path of the manifest is relative.

    Raises:
        UserError: names the key or file, the value and what is allowed.
    """
    teachers = preflight.check(config, project)
    hardware = preflight.resolve_hardware(config)
    hashes = FileHashes.read()
    tree = as_tree(config)
    tree["teachers"] = {entry.name: _teacher_tree(entry, config, project, hashes) for entry in teachers}
    tree["references"] = _references(config) if preflight.real_classes(config, teachers) else {}
    tree["methods"] = list(config.inversion.methods)
    tree["learners"] = [f"{arm}/seed{seed}" for arm in config.meta.arms for seed in config.meta.seeds]
    tree["architectures"] = _architectures(config)
    # Names, sizes and modification times, so that changed or added images are noticed. The embedded glyphs have no files.
    tree["image_files"] = listing_hash(config.data.folder) if config.data.source is ImageSource.folder and config.data.folder else ""
    newest = newest_plan()
    return Plan(tree, hardware, newest.shards if newest else {}, Source.read(newest.source if newest else None))


def new_path() -> Path:
    """Where this run writes its plan; paths of later runs sort behind it."""
    return FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}-{os.getpid()}.json"


def newest_plan() -> Plan | None:
    """The plan of the last run of this folder; None if there is none that can be read."""
    for path in sorted(FOLDER.glob("*.json"), reverse=True):
        try:
            return Plan.read(path)
        except (UserError, KeyError, TypeError, ValueError):
            continue
    return None


@dataclass(frozen=True)
class Declaration:
    """What a stage states beside its code: the keys of the plan that it reads, and the folder of its record."""

    reads: tuple[str, ...]
    folder: str

    @property
    def wildcards(self) -> list[str]:
        return [part.partition("}")[0] for part in self.folder.split("{")[1:]]


@functools.cache
def declaration(stage: str) -> Declaration:
    """The constants ``READS`` and ``FOLDER`` of a stage, read from its source, since its import would take PyTorch along."""
    constants = {}
    for node in ast.parse((PACKAGE / "stages" / f"{stage}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in ("READS", "FOLDER"):
            constants[node.targets[0].id] = ast.literal_eval(node.value)
    return Declaration(constants["READS"], constants["FOLDER"])


def _look_up(tree: Mapping[str, Any], dotted: str) -> Any:
    value: Any = tree
    for part in dotted.split("."):
        value = value[part]
    return value


def _computes(stage: str, tree: Mapping[str, Any], wildcards: Mapping[str, str]) -> bool:
    """Whether the outputs depend on the hardware; not if images or teachers are only copied."""
    if stage == "images":
        return not tree["image_files"]
    return stage != "teacher" or tree["teachers"][wildcards["teacher"]]["training"] is not None


def _fill_wildcards(path: str | list[str], wildcards: Mapping[str, str]) -> str | list[str]:
    if isinstance(path, list):
        return [str(_fill_wildcards(part, wildcards)) for part in path]
    for name, value in wildcards.items():
        path = path.replace(f"{{{name}}}", value)
    return path


def _teacher_tree(entry: Entry, config: Config, project: Path, hashes: FileHashes) -> dict[str, Any]:
    """All that the job of a teacher depends on, except real images: its manifest entry; how it is trained, or what is in its file."""
    tree = {"entry": as_tree(entry), "training": None, "seed": None, "file": None, "file_sha256": None}
    if entry.train:
        tree |= {"training": as_tree(config.zoo.training), "seed": config.seed}
    if entry.file:
        file = os.path.relpath(project / Path(config.zoo.manifest).parent / entry.file)
        tree |= {"file": file, "file_sha256": hashes.of(file)}
    return tree


def _architectures(config: Config) -> dict[str, dict[str, str | None]]:
    """By stage and name: the algorithm whose result is the backbone, None for another backbone."""
    searched = searched_algorithm(config.nas) if config.nas.algorithms else None
    return {
        "learner": {name: searched if arm.backbone.genotype == "searched" else None for name, arm in config.meta.arms.items()},
        "reference": {name: searched if name == "searched" else None for name in references(config)},
    }


def _references(config: Config) -> dict[str, Any]:
    """The settings of the networks that are trained on real images: the judge and the chosen oracles."""
    chosen = ["judge", *("oracle" if name == "classifier" else name for name in config.evaluation.oracles)]
    return {name: tree for name, tree in references(config).items() if name in chosen}
