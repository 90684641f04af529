"""Calibration of a few-shot classifier's probabilities, and its rejection of images of other classes, on held-out real classes.

    python benchmarks/few_shot_calibration.py --learner artifacts/meta/distillation/seed0 --split validation --output build/calibration.json

In each episode a classifier learns some classes of the split, as `datafree adapt` does, and labels other images of these classes and images
of five other classes. Prints per number of classes and images: accuracy; expected calibration error (15 bins of the largest probability)
with the temperature of the classifier, with the prior's and with 1; AUROC of known against unknown by the classifier's similarity, by its
similarity without recovered images, and by the largest probability; and the shares of known and of unknown images that are rejected.
Intervals are of 95 %, over episodes (of the calibration error by resampling of episodes).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from datafree import artifacts, devices
from datafree.errors import exit_on_user_error
from datafree.evaluation.intervals import mean_interval
from datafree.predict.classifier import PRIOR_TEMPERATURE, FewShotClassifier, fit
from datafree.stages.files.image_sets import read_image_set
from datafree.stages.files.trained import load_learner

QUERY, UNKNOWN, BINS, RESAMPLES = 15, 5, 15, 200
COLUMNS = ("accuracy", "ece", "ece_prior", "ece_1", "auroc", "auroc_without_recovered", "auroc_probability", "known", "unknown")


def auroc(known: Tensor, unknown: Tensor) -> float:
    """The probability that a score of ``known`` [N] is larger than one of ``unknown`` [M]; ties count half."""
    difference = known[:, None] - unknown
    return ((difference > 0).double() + 0.5 * (difference == 0).double()).mean().item()


def calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """Expected calibration error of confidences [N] in [0, 1] with ``correct`` bool [N]; Guo et al., ICML 2017."""
    bins = (confidence * BINS).ceil().clamp(1, BINS).long() - 1
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, confidence.double() - correct.double())
    return (gaps.abs().sum() / len(confidence)).item()


def interval_of_resamples(confidences: Sequence[Tensor], correct: Sequence[Tensor]) -> float:
    """Half of the range of the central 95 % of the calibration errors of resampled episodes."""
    rng = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(RESAMPLES):
        chosen = torch.randint(len(confidences), (len(confidences),), generator=rng).tolist()
        errors.append(calibration_error(torch.cat([confidences[i] for i in chosen]), torch.cat([correct[i] for i in chosen])))
    low, high = torch.tensor(errors).quantile(torch.tensor([0.025, 0.975])).tolist()
    return (high - low) / 2


def episode(representations: Tensor, members: Sequence[Tensor], way: int, shot: int, rng: torch.Generator) -> tuple[Tensor, ...]:
    """Support, its labels, queries, their labels, and queries of other classes."""
    order = torch.randperm(len(members), generator=rng).tolist()
    rows = [members[c][torch.randperm(len(members[c]), generator=rng)[: shot + QUERY]] for c in order[: way + UNKNOWN]]
    support, query = torch.cat([of_class[:shot] for of_class in rows[:way]]), torch.cat([of_class[shot:] for of_class in rows[:way]])
    other = torch.cat([of_class[shot:] for of_class in rows[way:]])
    labels = torch.arange(way)
    return (
        representations[support],
        labels.repeat_interleave(shot),
        representations[query],
        labels.repeat_interleave(QUERY),
        representations[other],
    )


def measure(representations: Tensor, members: Sequence[Tensor], negatives: Tensor, way: int, shot: int, episodes: int) -> dict[str, object]:
    """One row of the table."""
    rng = devices.generator(0, "calibration", way, shot)
    values: dict[str, list[float]] = {name: [] for name in COLUMNS if not name.startswith("ece")}
    correct, confidences = [], {"ece": [], "ece_prior": [], "ece_1": []}
    for _ in range(episodes):
        support, labels, query, target, other = episode(representations, members, way, shot, rng)
        classifier, plain = fit(support, labels, way, negatives), fit(support, labels, way, negatives[:0])
        logits = classifier.logits(query)
        hits = logits.argmax(1) == target
        correct.append(hits)
        for name, temperature in (("ece", classifier.temperature), ("ece_prior", PRIOR_TEMPERATURE), ("ece_1", 1.0)):
            confidences[name].append((logits * classifier.temperature / temperature).softmax(1).amax(1))
        largest = [classifier.logits(images).softmax(1).amax(1) for images in (query, other)]
        values["accuracy"].append(hits.float().mean().item())
        values["auroc"].append(auroc(classifier.similarity(query), classifier.similarity(other)))
        values["auroc_without_recovered"].append(auroc(_cosine(plain, query), _cosine(plain, other)))
        values["auroc_probability"].append(auroc(*largest))
        values["known"].append(classifier.rejected(query).float().mean().item())
        values["unknown"].append(classifier.rejected(other).float().mean().item())
    row: dict[str, object] = {name: mean_interval(of_episodes) for name, of_episodes in values.items()}
    for name, parts in confidences.items():
        error = calibration_error(torch.cat(parts), torch.cat(correct))
        row[name] = {"mean": error, "interval": interval_of_resamples(parts, correct), "n": episodes}
    return {"way": way, "shot": shot, **row}


def _cosine(classifier: FewShotClassifier, images: Tensor) -> Tensor:
    """The largest cosine with a class mean."""
    return (classifier.logits(images) * classifier.temperature).amax(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learner", required=True, help="the folder of a learner in a finished run")
    parser.add_argument("--split", default="validation", choices=["validation", "test"])
    parser.add_argument("--ways", type=int, nargs="+", default=[2, 5, 10])
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 5, 20])
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    with devices.use("auto") as device:
        learner = load_learner(given.learner)
        learner.network.to(device)
        images = read_image_set(Path(given.learner).resolve().parents[2] / "data" / f"{given.split}.safetensors")
        representations = learner.represent(images.images)
    members = [torch.nonzero(images.labels == label).flatten() for label in range(len(images.classes))]
    rows = []
    print("| classes | images each | " + " | ".join(COLUMNS) + " |")
    for way in given.ways:
        for shot in given.shots:
            rows.append(measure(representations, members, learner.negatives, way, shot, given.episodes))
            cells = [f"{100 * rows[-1][name]['mean']:.1f} ± {100 * rows[-1][name]['interval']:.1f}" for name in COLUMNS]
            print(f"| {way} | {shot} | " + " | ".join(cells) + " |", flush=True)
    artifacts.write_json(given.output, {"learner": dict(learner.card), "split": given.split, "rows": rows})


if __name__ == "__main__":
    with exit_on_user_error("few_shot_calibration"):
        main()
