"""Few-shot accuracy as a function of the number and of the quality of the teachers.

    python benchmarks/teacher_curves.py --run . --output build/teacher-curves --methods benchmarks/inversion_methods_cifar_fs.yaml \\
        --row five_20 --teachers 10 25 50 100 --seeds 0 1 2

``--run`` is a folder as for ``benchmarks/inversion_methods.py``. For each point of the curve *teachers*, the pools of its first N teachers
are recovered by one row of ``--methods``, with a meta-generator trained on these teachers only, and a learner is trained by joint
distillation. For *steps* and *label_noise* the first ``--poor`` teachers are retrained on the run's real images of their classes: for the
given number of steps, or for ``--full-steps`` with the given share of random labels. No teacher is dropped as unreliable, so the curves
show the effect of poor teachers.

Accuracy is measured on the validation classes. ``--output`` receives the pools, ``points.json``, ``table.md`` and ``curves.png``; existing
results are not computed again.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from inversion_methods import Row, Study, begin, read_study
from matplotlib.figure import Figure

from datafree import artifacts, config, devices
from datafree.errors import UserError, exit_on_user_error
from datafree.evaluation.intervals import mean_interval
from datafree.workflow import hardware
from datafree.zoo.teachers import Teacher, empty_network, freeze, move
from datafree.zoo.training import accuracy, logits_of, train_classifier, with_label_noise

TITLES = {"teachers": "teachers", "steps": "training steps of a teacher", "label_noise": "share of random labels"}
Point = dict[str, Any]  # curve, value, teacher_accuracy (mean on held-out images), accuracy: shot → one value per seed


def poor_teacher(run: Path, folder: Path, teacher: Teacher, study: Study, steps: int, noise: float) -> tuple[Teacher, float]:
    """A teacher with the same network, input and classes, trained on the run's real images; and its accuracy on held-out images."""
    card = artifacts.read_json(run / "artifacts/zoo" / teacher.name / "card.json")
    path, seed = folder / f"{teacher.name}.safetensors", devices.derive_seed(0, "poor", teacher.name)
    classes = [study.train.classes.index(name) for name in teacher.classes]
    held = study.held.of_classes(classes)
    network = empty_network(card, len(teacher.classes), seed)
    if path.is_file():
        network.load_state_dict(artifacts.read_tensors(path))
    else:
        train = with_label_noise(study.train.of_classes(classes), noise, seed)
        train_classifier(
            network, teacher.normalise, train, steps=steps, batch_size=64, learning_rate=0.005, seed=seed, device=study.device,
            label=teacher.name,
        )  # fmt: skip
        artifacts.write_tensors(path, network.state_dict())
    poor = move(dataclasses.replace(teacher, network=freeze(network)), study.device)
    return poor, accuracy(logits_of(network, teacher.normalise, held.images, study.device), held.labels)


def measure(study: Study, row: Row, evaluation: config.EvaluationConfig, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Accuracy by shot, one value per seed, of learners on the pools of all teachers of the study."""
    begin(study, [row], {"teachers": [teacher.name for teacher in study.teachers], "evaluation": config.as_tree(evaluation)})
    for seed in seeds:
        for teacher in study.teachers:
            path = study.pool_path(row.name, teacher, seed)
            if not path.is_file():
                pool, _, _ = study.recover(row, teacher, seed, row.method)
                artifacts.write_tensors(path, {"images": pool.images, "labels": pool.labels, "soft_labels": pool.soft_labels})
        study.downstream(row.name, row, evaluation, seed)
    accuracies = [study.results["downstream"][f"{row.name}/{seed}"]["accuracy"] for seed in seeds]
    return {shot: [by_shot[shot] for by_shot in accuracies] for shot in accuracies[0]}


def points(given: argparse.Namespace, row: Row, evaluation: config.EvaluationConfig, device: torch.device) -> list[Point]:
    """Every point of every curve; ``points.json`` is rewritten after each point."""
    full_study = read_study(given.run, given.output, 0, given.run_seed, device)
    cases = [("teachers", count) for count in given.teachers]
    cases += [("steps", steps) for steps in given.steps] + [("label_noise", noise) for noise in given.label_noise]
    measured: list[Point] = []
    for curve, value in cases:
        count = value if curve == "teachers" else given.poor
        if count > len(full_study.zoo):
            raise UserError(f"{curve} {value}: {count} teachers requested, but {given.run} has {len(full_study.zoo)}; request fewer")
        chosen, folder = full_study.zoo[:count], given.output / f"{curve}-{value}"
        listed = [artifacts.read_json(given.run / "artifacts/zoo" / teacher.name / "card.json").get("accuracy") for teacher in chosen]
        teacher_accuracies = [accuracy["mean"] for accuracy in listed if accuracy]
        if curve != "teachers":
            steps, noise = (value, 0.0) if curve == "steps" else (given.full_steps, value)
            retrained = [poor_teacher(given.run, folder / "zoo", teacher, full_study, steps, noise) for teacher in chosen]
            chosen, teacher_accuracies = [teacher for teacher, _ in retrained], [mean for _, mean in retrained]
        study = dataclasses.replace(full_study, teachers=chosen, zoo=chosen, output=folder, results={})
        accuracies = measure(study, row, evaluation, given.seeds)
        measured.append({
            "curve": curve, "value": value, "teachers": count, "accuracy": accuracies,
            "teacher_accuracy": sum(teacher_accuracies) / len(teacher_accuracies) if teacher_accuracies else None,
        })  # fmt: skip
        artifacts.write_json(given.output / "points.json", measured)
    return measured


def table(measured: Sequence[Point]) -> str:
    """Markdown table, one line per point; ± is the half-width of the 95 % interval over the seeds."""
    shots = sorted(measured[0]["accuracy"], key=int)
    lines = ["| curve | value | teachers | teacher accuracy | " + " | ".join(f"{shot}-shot" for shot in shots) + " |"]
    lines.append("|---|---:|---:|---:|" + "---:|" * len(shots))
    for point in measured:
        values = [mean_interval(point["accuracy"][shot]) for shot in shots]
        cells = [f"{100 * value['mean']:.1f}" + (f" ± {100 * value['interval']:.1f}" if value["n"] > 1 else "") for value in values]
        of_teachers = "–" if point["teacher_accuracy"] is None else f"{100 * point['teacher_accuracy']:.1f}"
        lines.append(f"| {TITLES[point['curve']]} | {point['value']} | {point['teachers']} | {of_teachers} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(measured: Sequence[Point]) -> Figure:
    """A panel per curve, a line per shot; dots are single seeds."""
    curves = list(dict.fromkeys(point["curve"] for point in measured))
    figure = Figure(figsize=(4 * len(curves), 3.2), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(curves), sharey=True, squeeze=False)[0], curves, strict=True):
        of_curve = [point for point in measured if point["curve"] == curve]
        values = [point["value"] for point in of_curve]
        for shot in sorted(of_curve[0]["accuracy"], key=int):
            means = [100 * sum(point["accuracy"][shot]) / len(point["accuracy"][shot]) for point in of_curve]
            (line,) = axes.plot(values, means, marker="o", label=f"{shot}-shot")
            for point in of_curve:
                seeds = [100 * value for value in point["accuracy"][shot]]
                axes.plot([point["value"]] * len(seeds), seeds, ".", color=line.get_color(), alpha=0.4)
        if curve != "label_noise" and min(values) > 0:
            axes.set_xscale("log")
            axes.set_xticks(values, [str(value) for value in values], minor=False)
            axes.minorticks_off()
        axes.set_xlabel(TITLES[curve])
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy, validation classes, %")
    figure.axes[0].legend()
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder with the artifacts of a finished run")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--methods", type=Path, default=Path(__file__).with_name("inversion_methods.yaml"))
    parser.add_argument("--row", default="five_20", help="of --methods: the inversion method")
    parser.add_argument("--teachers", type=int, nargs="*", default=[10, 25, 50, 100])
    parser.add_argument("--steps", type=int, nargs="*", default=[30, 100, 300, 900])
    parser.add_argument("--label-noise", type=float, nargs="*", default=[0.0, 0.25, 0.5, 1.0])
    parser.add_argument("--poor", type=int, default=10, help="number of teachers in the curves steps and label_noise")
    parser.add_argument("--full-steps", type=int, default=900, help="training steps of teachers with label noise")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--run-seed", type=int, default=0, help="`seed` of the run: determines the held-out images")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    spec = yaml.safe_load(given.methods.read_text(encoding="utf-8"))
    row = Row.read(given.row, spec["rows"][given.row], spec)
    evaluation = config.typed(config.EvaluationConfig, config.merge(config.as_tree(config.EvaluationConfig()), spec.get("evaluation", {})))
    machine = hardware.resolve(given.device, "auto")
    with devices.use(machine.device) as device, devices.autocast(device, machine.precision):
        measured = points(given, row, evaluation, device)
    artifacts.write_text(given.output / "table.md", table(measured))
    plot(measured).savefig(given.output / "curves.png", dpi=150)
    print(table(measured), end="")


if __name__ == "__main__":
    with exit_on_user_error("teacher_curves"):
        main()
