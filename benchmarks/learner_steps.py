"""Time of a training step of each meta-learning arm: teachers and tasks in one pass against one after the other, on one device.

    python benchmarks/learner_steps.py --output build/learner-steps.json
    python benchmarks/learner_steps.py --output build/tiny.json --device cpu --teachers 4 --steps 2 --repeats 1

Teachers have random weights and pools random images: the time does not depend on the values. Each measurement follows a warm-up; the two
alternate. The times contain what a step does on the CPU, such as drawing random numbers and reading losses.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from recovery_engine import CLASSES, random_teachers, seconds, write_as_measured

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import BackboneConfig, TasksConfig, resolve
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.heads import TeacherHeads
from datafree.errors import exit_on_user_error
from datafree.meta import ARMS
from datafree.meta.learner import Learner
from datafree.tasks.episodes import Episodes, sample_episodes
from datafree.tasks.pools import Pool
from datafree.workflow import hardware
from datafree.zoo.backbones import Normalise, build

SIZE = 32
IMAGES = 60  # per class
ARMS_MEASURED = {
    "distillation": {"method": "distillation"},
    "bell": {"method": "bell"},
    "bell_replay": {"method": "bell", "replay": {"episodes": 2, "inner_steps": 3}},
    "igr": {"method": "igr", "regularisation": 0.001},
    "protonet": {"method": "protonet"},
    "maml": {"method": "maml"},
    "anil": {"method": "anil"},
}


def random_pools(teachers: int) -> list[Pool]:
    """Pools of random images, with as many classes and images as in the CIFAR-FS study."""
    pools = []
    for number in range(teachers):
        rng = devices.generator(number, "pool")
        images = torch.randint(0, 256, (CLASSES * IMAGES, 3, SIZE, SIZE), dtype=torch.uint8, generator=rng)
        names = tuple(f"teacher-{number}-class-{label}" for label in range(CLASSES))
        soft_labels = torch.rand(len(images), CLASSES, generator=rng).softmax(1).half()
        pools.append(Pool(images, torch.arange(len(images)) % CLASSES, soft_labels, names))
    return pools


def train(arm: Any, ensemble: TeacherEnsemble, episodes: Episodes, backbone: BackboneConfig) -> None:
    """Train a new learner."""
    body = build(backbone, 3, SIZE, 0)
    with devices.seeded_initialisation(0):
        heads = TeacherHeads(body.feature_size, ensemble.class_counts)
    learner = Learner(body, heads, Normalise([0.5] * 3, [0.25] * 3)).to(ensemble.device)
    ARMS[arm.method](learner, ensemble, episodes, arm, 0, Checkpoint(None))


def measure(given: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    """One entry per arm: milliseconds per step of every repetition, in one pass and one after the other."""
    teachers = random_teachers(BackboneConfig("conv4", 32), given.teachers, SIZE, CLASSES, device)
    pools = random_pools(given.teachers)
    episodes = sample_episodes(pools, [1.0] * given.teachers, TasksConfig(episodes=200), 0)
    backbone, normalise = BackboneConfig(given.backbone, given.width), Normalise([0.5] * 3, [0.25] * 3).to(device)
    arms = resolve({"meta": {"arms": ARMS_MEASURED}}).meta.arms
    for name in given.arms:
        arm = dataclasses.replace(arms[name], steps=given.steps)
        times: dict[str, list[float]] = {"together": [], "one_by_one": []}
        ensembles = {
            key: TeacherEnsemble(teachers, pools, normalise, device, torch.ones(given.teachers), together=key == "together")
            for key in times
        }
        for repeat in range(given.repeats + 1):
            for key, ensemble in ensembles.items():
                wall = seconds(lambda arm=arm, ensemble=ensemble: train(arm, ensemble, episodes, backbone), device)
                if repeat:  # the first one warms up
                    times[key].append(1000 * wall / given.steps)
        yield {"arm": name, "steps": given.steps, "milliseconds_per_step": times}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--arms", nargs="*", choices=tuple(ARMS_MEASURED), default=tuple(ARMS_MEASURED))
    parser.add_argument("--teachers", type=int, default=100)
    parser.add_argument("--backbone", default="conv4_strided")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args(arguments)
    machine = hardware.resolve(given.device, "auto")
    with devices.use(machine.device) as device, devices.autocast(device, machine.precision):
        write_as_measured(measure(given, device), given.output, device, machine.precision)


if __name__ == "__main__":
    with exit_on_user_error("learner_steps"):
        main()
