"""Benchmark of data-free distillation on published CIFAR-10 classifiers: recover a teacher's images, train a student on them alone.

    python benchmarks/unpack_mosaics.py data/cifar10 test=cifar10_test.npz
    python benchmarks/cifar10_student.py --checkpoints data/checkpoints --images data/cifar10 --output build/cifar10 \\
        --teacher cifar10-resnet20 --method '{method: pixels, steps: 200}'

``--manifest`` lists the classifiers, all of the same classes; ``--checkpoints`` is the folder of their files; ``--images`` holds
``test/<class>/<image>``, the classes in the order of the logits. The options' defaults suit a CPU.

``--output`` receives ``result.json``. For the recovered images: the accuracy of the teacher and of every other classifier (transfer), the
agreement of each other classifier with the teacher, the Fréchet distance to the test images in the teacher's features, and the mean
distance within classes relative to the test images. For the student: its accuracy on the real test images and its agreement with the
teacher there. After an interruption the same command continues. On a GPU all batches of images are recovered in one pass, as many as its
memory holds. ``--source noise`` trains the student on smooth noise, as a baseline.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from frechet import frechet_distance, teacher_features
from recovered_fraction import noise_pool

from datafree import artifacts, config, devices
from datafree.checkpoints import Checkpoint
from datafree.config.inversions import starts_from_meta
from datafree.config.schema import BACKBONES
from datafree.data.folder import folder_images
from datafree.data.images import ImageSet, class_sheet
from datafree.distillation.ensemble import mixup
from datafree.distillation.losses import distillation_loss
from datafree.errors import UserError, exit_on_user_error
from datafree.evaluation.inversion_quality import spread
from datafree.inversion import Recovery, recover_one
from datafree.inversion.generator import Generator, new_generator
from datafree.inversion.meta_generator import train_meta_generator
from datafree.progress import progress, require_finite
from datafree.tasks.pools import Pool, real_pool
from datafree.workflow import hardware
from datafree.zoo import sources
from datafree.zoo.augmentation import random_affine
from datafree.zoo.backbones import Classifier, Normalise, build
from datafree.zoo.manifest import read_manifest
from datafree.zoo.teachers import Teacher, freeze, load_checkpoint, move
from datafree.zoo.training import accuracy, logits_of

SIZE = 32
CHECKPOINT_SECONDS = 30.0


def read_classifiers(manifest: Path, checkpoints: Path, device: torch.device) -> dict[str, Teacher]:
    """The manifest's classifiers by name, on ``device``; their files are found in ``checkpoints`` by file name.

    Raises:
        UserError: a missing or wrong file, or classifiers of different classes.
    """
    classifiers = {}
    for entry in read_manifest(manifest):
        local = dataclasses.replace(entry, file=Path(entry.file).name)
        network = load_checkpoint(entry, sources.fetch(local, checkpoints, checkpoints), len(entry.classes))
        normalise, shape = Normalise(entry.mean, entry.std, entry.input), (entry.input[0], entry.input[1], entry.input[2])
        classifiers[entry.name] = move(Teacher(entry.name, freeze(network), normalise, tuple(entry.classes), shape), device)
    if len({teacher.classes for teacher in classifiers.values()}) != 1:
        raise UserError(f"{manifest}: expected classifiers of the same classes in the same order, found several lists")
    return classifiers


def recover(teacher: Teacher, inversion: config.InversionConfig, method: Any, seed: int, path: Path) -> Pool:
    """The teacher's pool, stored at ``path`` with the ``cost`` of its recovery (null if the recovery was interrupted)."""
    if not path.is_file():
        checkpoint = Checkpoint(path.with_suffix(".pt"), "recover", CHECKPOINT_SECONDS)
        uninterrupted, cpu, wall = not path.with_suffix(".pt").exists(), time.process_time(), time.perf_counter()
        start = meta_generator(teacher, inversion, seed) if starts_from_meta(method) else None
        together = devices.together(teacher.normalise.mean.device)
        recovered = recover_one(Recovery(teacher, seed, checkpoint), method, inversion, size=SIZE, start=start, together=together)
        cost = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall} if uninterrupted else None
        tensors = {"images": recovered.images, "labels": recovered.labels, "soft_labels": recovered.soft_labels}
        artifacts.write_history(path.with_suffix(".csv"), recovered.history)
        artifacts.write_image(path.with_suffix(".png"), class_sheet(recovered.images, recovered.labels, 16))
        artifacts.write_tensors(path, tensors, cost=cost)
        checkpoint.clear()
    return Pool(**artifacts.read_tensors(path, "images", "labels", "soft_labels"), classes=teacher.classes)


def meta_generator(teacher: Teacher, inversion: config.InversionConfig, seed: int) -> Generator:
    """A meta-generator trained on this teacher alone, so that the other classifiers stay independent (as in Fast-Datafree)."""
    shape = {key: getattr(inversion.meta_generator, key) for key in ("latent", "width", "conditional")}
    generator = new_generator(**shape, classes=len(teacher.classes), channels=3, size=SIZE, seed=seed).to(teacher.normalise.mean.device)
    train_meta_generator(generator, [teacher], inversion.meta_generator, inversion, seed, Checkpoint(None))
    return generator


def quality(teacher: Teacher, others: list[Teacher], pool: Pool, test: ImageSet, device: torch.device) -> dict[str, Any]:
    """Measures of the recovered images, as the module's docstring lists them."""
    per_class = min(len(pool.labels) // len(pool.classes), min(torch.bincount(test.labels).tolist()))
    recovered = ImageSet(pool.images, pool.labels, pool.classes)
    chosen, real = (real_pool(data, teacher.classes, per_class) for data in (recovered, test))  # equally many of each class
    features = [teacher_features(teacher, images, device) for images in (chosen.images, real.images)]
    teacher_logits = logits_of(teacher.network, teacher.normalise, pool.images, device)
    teacher_accuracy = accuracy(teacher_logits, pool.labels)
    measures = {"images": len(pool.labels), "teacher_accuracy": teacher_accuracy, "frechet": frechet_distance(*features)}
    distances = [spread(teacher, subset.images, subset.labels)["within_class_distance"] for subset in (chosen, real)]
    measures["within_class_ratio"] = distances[0] / distances[1]
    for other in others:
        logits = logits_of(other.network, other.normalise, pool.images, device)
        measures[f"transfer_{other.name}"] = accuracy(logits, pool.labels)
        measures[f"agreement_{other.name}"] = accuracy(logits, teacher_logits.argmax(1))
    return measures


def train_student(teacher: Teacher, pool: Pool, options: argparse.Namespace, device: torch.device, path: Path) -> Classifier:
    """Distil the teacher into a new network on the pool's images alone; an interrupted training continues from the checkpoint ``path``.

    Every batch is randomly flipped, rotated, scaled and shifted, every other one mixed (``mix``); the teacher predicts for the student's
    augmented views. SGD with momentum .9 and weight decay 5e-4, a cosine learning rate to 0.
    """
    seed = devices.derive_seed(options.seed, "student")
    backbone = build(config.BackboneConfig(options.student, BACKBONES[options.student]), 3, SIZE, seed)
    with devices.seeded_initialisation(seed):
        student = Classifier(backbone, len(teacher.classes)).to(device)
    optimiser = torch.optim.SGD(student.parameters(), lr=options.student_rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.student_steps)
    checkpoint = Checkpoint(path, "student", CHECKPOINT_SECONDS)
    first, history = checkpoint.restore(student=student, optimiser=optimiser, schedule=schedule)
    student.train()
    images = devices.resident(pool.images, device)
    for step in progress(range(first, options.student_steps), options.student_steps - first, options.student):
        rng = devices.generator(seed, "batch", step)
        rows = torch.randint(len(pool.labels), (options.student_batch,), generator=rng)
        views = teacher.normalise(devices.rows(images, rows, device))
        mirrored = devices.moved(torch.rand(len(rows), 1, 1, 1, generator=rng), device) < 0.5
        views = random_affine(torch.where(mirrored, views.flip(3), views), rng, degrees=10, scale=0.1, shift=0.12)
        views = mixup(views, rng) if step % 2 else views
        with torch.no_grad():
            predictions = teacher.network(views).float().softmax(1)
        loss = distillation_loss(student(views).float(), predictions, options.temperature)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == options.student_steps - 1:
            history.append({"step": step + 1, "distillation": loss.item()})
            require_finite(options.student, **history[-1])
        checkpoint.save(step + 1, history, student=student, optimiser=optimiser, schedule=schedule)
    return student.eval()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, default=Path(__file__).parents[1] / "zoos" / "cifar10-resnets.yaml")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of the manifest's files")
    parser.add_argument("--images", type=Path, required=True, help="folder with test/<class>/<image>")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--teacher", default="cifar10-resnet20")
    parser.add_argument("--source", choices=("recovered", "noise"), default="recovered")
    parser.add_argument("--method", default="{method: pixels, steps: 200, batch_size: 200, flip: true}", help="as in inversion.methods")
    parser.add_argument("--inversion", default="{}", help="changes of the settings of all methods, such as '{loss: {batch_norm: 10.0}}'")
    parser.add_argument("--images-per-class", type=int, default=200)
    parser.add_argument("--student", default="resnet20", help="an architecture of datafree.zoo.backbones")
    parser.add_argument("--student-steps", type=int, default=2000)
    parser.add_argument("--student-batch", type=int, default=128)
    parser.add_argument("--student-rate", type=float, default=0.1)
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    shared = {**yaml.safe_load(options.inversion), "images_per_class": options.images_per_class}
    tree = {"inversion": {**shared, "methods": {"study": yaml.safe_load(options.method)}}, "meta": {"arms": {}}, "nas": {"algorithms": {}}}
    inversion = config.resolve(tree).inversion
    settings = {key: value for key, value in vars(options).items() if key not in ("manifest", "checkpoints", "images", "output", "device")}
    machine = hardware.resolve(options.device, "auto")
    with devices.use(machine.device) as device, devices.autocast(device, machine.precision):
        result = study(options, inversion, settings, device)
    for key, value in result.items():
        print(f"{key}: {value}")


def study(options: argparse.Namespace, inversion: config.InversionConfig, settings: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The result, written to ``result.json`` after each part.

    Raises:
        UserError: the folder has a result of other settings, the manifest lacks the teacher, or the images have another number of classes.
    """
    path = options.output / "result.json"
    result = artifacts.read_json(path) if path.is_file() else {"settings": settings, "torch": torch.__version__}
    if result["settings"] != settings:
        raise UserError(f"{path}: was made with {result['settings']}; give another --output")
    classifiers = read_classifiers(options.manifest, options.checkpoints, device)
    if options.teacher not in classifiers:
        raise UserError(f"--teacher: got {options.teacher!r}; the manifest has {', '.join(classifiers)}")
    teacher = classifiers.pop(options.teacher)
    test = folder_images(options.images, "test", SIZE)
    if len(test.classes) != len(teacher.classes):
        raise UserError(f"--images: {len(test.classes)} classes under test/; expected the {len(teacher.classes)} of the classifiers")
    test = ImageSet(test.images, test.labels, teacher.classes)
    seed = devices.derive_seed(options.seed, "recover")
    if options.source == "noise":
        pool, cost = noise_pool(teacher, options.images_per_class, SIZE, seed), None
    else:
        pool_path = options.output / "pool.safetensors"
        pool = recover(teacher, inversion, inversion.methods["study"], seed, pool_path)
        cost = artifacts.read_metadata(pool_path)["cost"]
    if "recovery" not in result:
        result["recovery"] = {**quality(teacher, list(classifiers.values()), pool, test, device), "cost": cost}
        artifacts.write_json(path, result)
    if "student" not in result:
        student = train_student(teacher, pool, options, device, options.output / "student.pt")
        logits, teacher_logits = (logits_of(network, teacher.normalise, test.images, device) for network in (student, teacher.network))
        result["student"] = {
            "accuracy": accuracy(logits, test.labels), "agreement": accuracy(logits, teacher_logits.argmax(1)),
            "teacher_accuracy": accuracy(teacher_logits, test.labels), "images": len(test.labels),
        }  # fmt: skip
        artifacts.write_json(path, result)
    return result


if __name__ == "__main__":
    with exit_on_user_error("cifar10_student"):
        main()
