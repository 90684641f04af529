"""How few-shot accuracy depends on how many teachers there are, and on how good they are.

    python benchmarks/teacher_curves.py --run . --output build/teacher-curves --methods benchmarks/inversion_methods_cifar_fs.yaml \\
        --row five_20 --teachers 10 25 50 100 --seeds 0 1 2

``--run`` is a folder as ``benchmarks/inversion_methods.py`` takes it. Of its teachers the first so many are recovered by one row of
``--methods``, from a meta-generator trained on just these, and joint distillation learns from their pools: the curve *teachers*. For
*steps* and *label_noise* the first ``--poor`` teachers are trained anew on the run's real images of their own classes: for so many steps,
or for ``--full-steps`` with that share of labels at random. No teacher is dropped as untrustworthy: the curves show what that is for.

Accuracy is that on the validation classes. ``--output`` receives the pools, ``points.json``, ``table.md`` and ``curves.png``; what is there
is not done again.
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

TITLES = {"teachers": "teachers", "steps": "training steps of a teacher", "label_noise": "share of labels at random"}
Point = dict[str, Any]  # curve, value, teacher_accuracy (mean on held-out images), accuracy: shot → one value per seed


def poor_teacher(run: Path, folder: Path, teacher: Teacher, study: Study, steps: int, noise: float) -> tuple[Teacher, float]:
    """A teacher of the same network, input and classes, trained on the run's real images; and its accuracy on held-out ones."""
    card = artifacts.read_json(run / "artifacts/zoo" / teacher.name / "card.json")
    path, seed = folder / f"{teacher.name}.safetensors", devices.derive_seed(0, "poor", teacher.name)
    own = [study.train.classes.index(name) for name in teacher.classes]
    held = study.held.of_classes(own)
    network = empty_network(card, len(teacher.classes), seed)
    if path.is_file():
        network.load_state_dict(artifacts.read_tensors(path))
    else:
        train = with_label_noise(study.train.of_classes(own), noise, seed)
        train_classifier(
            network, teacher.normalise, train, steps=steps, batch_size=64, learning_rate=0.005, seed=seed, device=study.device,
            label=teacher.name,
        )  # fmt: skip
        artifacts.write_tensors(path, network.state_dict())
    made = move(dataclasses.replace(teacher, network=freeze(network)), study.device)
    return made, accuracy(logits_of(network, teacher.normalise, held.images, study.device), held.labels)


def measure(study: Study, row: Row, evaluation: config.EvaluationConfig, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Accuracy by shot, one value per seed, of what is recovered from all teachers of the study."""
    begin(study, [row], {"teachers": [teacher.name for teacher in study.teachers], "evaluation": config.as_tree(evaluation)})
    for seed in seeds:
        for teacher in study.teachers:
            path = study.pool_path(row.name, teacher, seed)
            if not path.is_file():
                pool, _, _ = study.recover(row, teacher, seed, row.method)
                artifacts.write_tensors(path, {"images": pool.images, "labels": pool.labels, "soft_labels": pool.soft_labels})
        study.downstream(row.name, row, evaluation, seed)
    found = [study.results["downstream"][f"{row.name}/{seed}"]["accuracy"] for seed in seeds]
    return {shot: [one[shot] for one in found] for shot in found[0]}


def points(given: argparse.Namespace, row: Row, evaluation: config.EvaluationConfig, device: torch.device) -> list[Point]:
    """Every point of every curve; the file ``points.json`` grows with them."""
    whole = read_study(given.run, given.output, 0, given.run_seed, device)
    cases = [("teachers", count) for count in given.teachers]
    cases += [("steps", steps) for steps in given.steps] + [("label_noise", noise) for noise in given.label_noise]
    found: list[Point] = []
    for curve, value in cases:
        count = value if curve == "teachers" else given.poor
        if count > len(whole.zoo):
            raise UserError(f"{curve} {value}: {count} teachers wanted, but {given.run} has {len(whole.zoo)}; ask for fewer")
        chosen, folder = whole.zoo[:count], given.output / f"{curve}-{value}"
        known = [artifacts.read_json(given.run / "artifacts/zoo" / teacher.name / "card.json").get("accuracy") for teacher in chosen]
        rights = [one["mean"] for one in known if one]
        if curve != "teachers":
            steps, noise = (value, 0.0) if curve == "steps" else (given.full_steps, value)
            made = [poor_teacher(given.run, folder / "zoo", teacher, whole, steps, noise) for teacher in chosen]
            chosen, rights = [teacher for teacher, _ in made], [right for _, right in made]
        study = dataclasses.replace(whole, teachers=chosen, zoo=chosen, output=folder, results={})
        accuracies = measure(study, row, evaluation, given.seeds)
        found.append({
            "curve": curve, "value": value, "teachers": count, "accuracy": accuracies,
            "teacher_accuracy": sum(rights) / len(rights) if rights else None,
        })  # fmt: skip
        artifacts.write_json(given.output / "points.json", found)
    return found


def table(found: Sequence[Point]) -> str:
    """Markdown: a line per point; intervals are half-widths of 95 % intervals over the seeds."""
    shots = sorted(found[0]["accuracy"], key=int)
    lines = ["| curve | value | teachers | their accuracy | " + " | ".join(f"{shot}-shot" for shot in shots) + " |"]
    lines.append("|---|---:|---:|---:|" + "---:|" * len(shots))
    for point in found:
        values = [mean_interval(point["accuracy"][shot]) for shot in shots]
        cells = [f"{100 * one['mean']:.1f}" + (f" ± {100 * one['interval']:.1f}" if one["n"] > 1 else "") for one in values]
        known = "–" if point["teacher_accuracy"] is None else f"{100 * point['teacher_accuracy']:.1f}"
        lines.append(f"| {TITLES[point['curve']]} | {point['value']} | {point['teachers']} | {known} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(found: Sequence[Point]) -> Figure:
    """A panel per curve, a line per shot; dots are single seeds."""
    curves = list(dict.fromkeys(point["curve"] for point in found))
    figure = Figure(figsize=(4 * len(curves), 3.2), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(curves), sharey=True, squeeze=False)[0], curves, strict=True):
        own = [point for point in found if point["curve"] == curve]
        values = [point["value"] for point in own]
        for shot in sorted(own[0]["accuracy"], key=int):
            means = [100 * sum(point["accuracy"][shot]) / len(point["accuracy"][shot]) for point in own]
            (line,) = axes.plot(values, means, marker="o", label=f"{shot}-shot")
            for point in own:
                seeds = [100 * one for one in point["accuracy"][shot]]
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
    parser.add_argument("--row", default="five_20", help="of --methods: how the teachers are recovered")
    parser.add_argument("--teachers", type=int, nargs="*", default=[10, 25, 50, 100])
    parser.add_argument("--steps", type=int, nargs="*", default=[30, 100, 300, 900])
    parser.add_argument("--label-noise", type=float, nargs="*", default=[0.0, 0.25, 0.5, 1.0])
    parser.add_argument("--poor", type=int, default=10, help="teachers of a point of the curves steps and label_noise")
    parser.add_argument("--full-steps", type=int, default=900, help="training steps of teachers with label noise")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--run-seed", type=int, default=0, help="`seed` of the run: decides which images were held out")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    spec = yaml.safe_load(given.methods.read_text(encoding="utf-8"))
    row = Row.read(given.row, spec["rows"][given.row], spec)
    evaluation = config.typed(config.EvaluationConfig, spec.get("evaluation", {}))
    machine = hardware.resolve(given.device, "auto")
    with devices.use(machine.device) as device, devices.autocast(device, machine.precision):
        found = points(given, row, evaluation, device)
    artifacts.write_text(given.output / "table.md", table(found))
    plot(found).savefig(given.output / "curves.png", dpi=150)
    print(table(found), end="")


if __name__ == "__main__":
    with exit_on_user_error("teacher_curves"):
        main()
