"""Time of recovery: teachers of one architecture in one pass against one after the other, on one device.

    python benchmarks/recovery_engine.py --output build/recovery-engine.json
    python benchmarks/recovery_engine.py --output build/tiny.json --device cpu --teachers 3 --alone 2 --images 4 --steps 2 --counts 1 3

The teachers have random weights, and running statistics of random images: the time does not depend on the values. Each measurement comes
after a warm-up of the same shapes with two steps. ``alone`` is the time per teacher of the recovery of one teacher after the other,
measured on ``--alone`` teachers; the two alternate. ``compiled`` is one pass with inversion.compile, after a first one of two steps that
compiles, ``compiled_first``; only for ``--teachers`` teachers, because every number of rows is compiled anew. ``busy`` is the share of the
time in which the GPU computes, of a profiled run.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from datafree import artifacts, devices
from datafree.checkpoints import Checkpoint
from datafree.config import BackboneConfig, GeneratorInversion, InversionConfig, MetaGeneratorConfig, PixelInversion
from datafree.errors import UserError, exit_on_user_error
from datafree.inversion import METHODS, Recovery
from datafree.inversion.generator import Generator, new_generator
from datafree.inversion.meta_generator import train_meta_generator
from datafree.inversion.rows import OtherTeachers
from datafree.workflow import hardware
from datafree.zoo.backbones import Classifier, Normalise, build
from datafree.zoo.teachers import Teacher, freeze

WARM_UP = 2  # steps
CLASSES = 5


def random_teachers(backbone: BackboneConfig, count: int, size: int, classes: int, device: torch.device) -> tuple[Teacher, ...]:
    """Teachers with random weights whose running statistics are those of their outputs for random images."""
    teachers = []
    for number in range(count):
        with devices.seeded_initialisation(number):
            network = Classifier(build(backbone, 3, size, number), classes).to(device)
        images = torch.randn(16, 3, size, size, generator=devices.generator(number, "images")).to(device)
        with torch.no_grad():
            network.train()(images)
        normalise = Normalise([0.5] * 3, [0.25] * 3, (3, size, size)).to(device)
        names = tuple(f"class-{label}" for label in range(classes))
        teachers.append(Teacher(f"teacher-{number}", freeze(network), normalise, names, (3, size, size)))
    return tuple(teachers)


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Wall time of ``work``, until the device has finished it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def busy_share(work: Callable[[], Any], device: torch.device) -> float | None:
    """Share of the wall time of ``work`` in which kernels run; None without a GPU."""
    if device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        wall = seconds(work, device)
    return sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6 / wall


def recover(
    teachers: Sequence[Teacher], zoo: tuple[Teacher, ...], method: Any, shared: InversionConfig, size: int, start: Generator | None,
    together: bool,
) -> None:  # fmt: skip
    """Recover all pools.

    Raises:
        UserError: a recovery failed.
    """
    place = {teacher.name: number for number, teacher in enumerate(zoo)}
    recoveries = [Recovery(teacher, place[teacher.name], Checkpoint(None), OtherTeachers(zoo, place[teacher.name])) for teacher in teachers]
    for _, outcome in METHODS[method.method](recoveries, method, shared, size=size, start=start, together=together):
        if isinstance(outcome, UserError):
            raise outcome


def measure(given: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    """One entry per method and number of teachers, and one for the meta-generator; the largest numbers last."""
    shared, size = InversionConfig(images_per_class=given.images), given.size
    counts = sorted({*given.counts, given.teachers})
    zoo = random_teachers(BackboneConfig("conv4", 32), max(counts), size, CLASSES, device)
    generator = new_generator(64, 32, CLASSES, 3, size, seed=0).to(device)
    main = zoo[: given.teachers]

    def train(together: bool, outer_steps: int) -> None:
        settings = MetaGeneratorConfig(outer_steps=outer_steps)
        train_meta_generator(generator, main, settings, shared, 0, Checkpoint(None), together=together)

    for together in (True, False):
        train(together, WARM_UP)
    outer_steps = 70 if given.steps is None else given.steps
    entry: dict[str, Any] = {"work": "meta-generator", "teachers": len(main), "steps": outer_steps}
    entry |= {name: seconds(lambda flag=flag: train(flag, outer_steps), device) for name, flag in (("together", True), ("alone", False))}
    yield entry
    methods = {"five, k = 5": GeneratorInversion(steps=5), "five, k = 20": GeneratorInversion(steps=20), "pixels": PixelInversion(steps=50)}
    for count, (name, method) in itertools.product(counts, methods.items()):
        method = method if given.steps is None else dataclasses.replace(method, steps=given.steps)
        start = generator if isinstance(method, GeneratorInversion) else None
        common = {"zoo": zoo, "method": method, "shared": shared, "size": size, "start": start}
        yield {"work": name, "steps": method.steps, **compare(zoo[:count], given, device, common)}
    if given.large_batch:
        yield measure_large(given, device)


def compare(teachers: Sequence[Teacher], given: argparse.Namespace, device: torch.device, common: dict[str, Any]) -> dict[str, Any]:
    """Times of recoveries of all teachers in one pass, and of a few one after the other; ``common``: the arguments of ``recover``."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    few = teachers[: given.alone]
    short = {**common, "method": dataclasses.replace(common["method"], steps=WARM_UP)}
    recover(teachers, **short, together=True)
    recover(few, **short, together=False)
    whole, parts = [], []
    for _ in range(given.repeats if len(teachers) <= given.teachers else 1):
        whole.append(seconds(lambda: recover(teachers, **common, together=True), device))
        parts.append(seconds(lambda: recover(few, **common, together=False), device) / len(few))
    compiled: dict[str, Any] = {}
    if given.compile and len(teachers) == given.teachers:
        with_compiler = {**common, "shared": dataclasses.replace(common["shared"], compile=True)}
        recovery = functools.partial(recover, teachers, **with_compiler, together=True)
        first = seconds(lambda: recovery(method=short["method"]), device)
        compiled = {"compiled_first": first, "compiled": [seconds(recovery, device) for _ in range(given.repeats)]}
    return {
        "teachers": len(teachers), "images": len(teachers) * CLASSES * given.images, "together": whole, "alone_per_teacher": parts,
        "busy": busy_share(lambda: recover(teachers, **common, together=True), device) if len(teachers) == given.teachers else None,
        "peak_memory": torch.cuda.max_memory_allocated() if device.type == "cuda" else None, **compiled,
    }  # fmt: skip


def measure_large(given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Images per second of a ResNet-50 for 224 pixels, 1,000 classes, with 50 pixel steps."""
    teachers = random_teachers(BackboneConfig("torchvision/resnet50", 64), 1, 224, 1000, device)
    shared, method = InversionConfig(images_per_class=1), PixelInversion(steps=50, batch_size=given.large_batch)
    recover(teachers, teachers, dataclasses.replace(method, steps=WARM_UP), shared, 224, None, True)
    wall = seconds(lambda: recover(teachers, teachers, method, shared, 224, None, True), device)
    return {"work": "ResNet-50, 224 pixels", "images": 1000, "steps": 50, "seconds": wall, "images_per_second": 1000 / wall}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--teachers", type=int, default=100)
    parser.add_argument("--counts", type=int, nargs="*", default=[1, 10, 100, 1000], help="numbers of teachers for the scaling")
    parser.add_argument("--alone", type=int, default=3, help="teachers that are recovered one after the other")
    parser.add_argument("--images", type=int, default=60, help="per class, of 5 classes")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--steps", type=int, help="instead of those of each method")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="also with inversion.compile; only on a GPU")
    parser.add_argument("--large-batch", type=int, default=0, help="batch size for the ResNet-50 of 224 pixels; 0 = without it")
    given = parser.parse_args(arguments)
    machine = hardware.resolve(given.device, "auto")
    with devices.use(machine.device) as device, devices.autocast(device, machine.precision):
        write_as_measured(measure(given, device), given.output, device, machine.precision)


def write_as_measured(entries: Iterable[dict[str, Any]], path: Path, device: torch.device, precision: str) -> None:
    """Print each entry and write all so far, so that a time limit loses nothing that was measured."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    measured = []
    for entry in entries:
        print(entry, flush=True)
        measured.append(entry)
        artifacts.write_json(path, {"device": name, "precision": precision, "torch": torch.__version__, "measured": measured})


if __name__ == "__main__":
    with exit_on_user_error("recovery_engine"):
        main()
