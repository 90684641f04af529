"""Model cards: what a network is, how it was made, from whose weights, and what it was measured to do, as JSON and as Markdown.

Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from datafree import __version__
from datafree.errors import printable

LIMITS = (
    "The accuracy was measured on the classes and the kind of images that are named here. It will differ for other images; label some of "
    "your own to find out.",
    "Images are resized to squares of {size} pixels. What is only visible in more detail is lost.",
    "Classes are learned from the images that are given. With one image per class the result depends on which image it is.",
    "`none of these` finds only a part of the images that belong to no class.",
    "The weights, and images recovered from the teachers, can reveal properties of the teachers' training images.",
    "The licences of the teachers apply; whether they cover a network that was trained from their predictions is for their owners to say.",
)


def model_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """The model card of a learner or a teacher, from the card of its ``TrainedLearner``."""
    size, teachers = card["input"][1], card.get("teachers", [])
    made = {
        key: card[key]
        for key in ("method", "inversion", "start", "seed", "classifier", "computed_on", "source")
        if card.get(key) is not None
    }
    keys = ("backbone", "input", "mean", "std", "parameters", "macs")
    network = {key: card[key] for key in keys if key in card}
    if "members" in card:
        network["members"] = [{key: member[key] for key in keys if key in member} for member in card["members"]]
    return {
        "name": card.get("teacher") or card.get("arm") or "learner",
        "kind": _kind(card),
        "datafree": __version__,
        "made": made,
        "network": network,
        "accuracy": card.get("accuracy"),
        "teachers": list(teachers),
        "licences": dict(sorted(Counter(row["licence"] for row in teachers).items())) or {card.get("licence", "unknown"): 1},
        "limits": [limit.format(size=size) for limit in LIMITS],
        "sha256": card.get("sha256", ""),
    }


def _kind(card: Mapping[str, Any]) -> str:
    if "members" in card:
        return "group of teachers side by side, as they are"
    return "teacher, as it is" if "teacher" in card else "learner, trained without real images"


def as_markdown(card: Mapping[str, Any]) -> str:
    """A model card as Markdown; names come from strangers and are escaped."""
    network = card["network"]
    lines = [f"# {_escaped(card['name'])}", "", f"A {card['kind']}; datafree {card['datafree']}.", "", "## Network", ""]
    alike = Counter(_architecture(member["backbone"]) for member in network.get("members", [network]))
    lines += [f"- architecture: {text}" + (f" ({count} side by side)" if "members" in network else "") for text, count in alike.items()]
    lines += [
        f"- {name}: {network[key]:,}" for key, name in (("parameters", "parameters"), ("macs", "multiply-adds per image")) if key in network
    ]
    lines += [f"- input: {' × '.join(f'{side:d}' for side in network['input'])}{_normalisation(network)}"]
    lines += [f"- SHA-256 of the weights: {_escaped(card['sha256'] or 'unknown')}", "", "## How it was made", ""]
    lines += [f"- {key.replace('_', ' ')}: {_escaped(value)}" for key, value in card["made"].items()] or ["- unknown"]
    lines += ["", "## Accuracy", "", *_accuracy(card["accuracy"]), "", "## Teachers", ""]
    lines += [f"Licences: {', '.join(f'{_escaped(name)} ({count})' for name, count in card['licences'].items())}.", ""]
    if card["teachers"]:
        lines += ["| teacher | classes | licence | source | SHA-256 |", "|---|---:|---|---|---|"]
        for row in card["teachers"]:
            cells = [row["name"], row["classes"], row["licence"], row["source"], row["sha256"][:16]]
            lines.append(f"| {' | '.join(map(_escaped, cells))} |")
        lines += [""]
    return "\n".join([*lines, "## Known limits", "", *(f"- {limit}" for limit in card["limits"]), ""])


def _architecture(backbone: Mapping[str, Any]) -> str:
    return f"{_escaped(backbone['name'])}, width {_escaped(backbone['width'])}"


def _normalisation(network: Mapping[str, Any]) -> str:
    if "members" in network:
        return ", normalised by each network as in its training"
    mean, std = (" / ".join(f"{value:.4g}" for value in network[key]) for key in ("mean", "std"))
    return f", mean {mean}, standard deviation {std}"


def _accuracy(measured: Mapping[str, Any] | None) -> list[str]:
    if measured is None:
        return ["Not measured."]
    way, split, seeds = (_escaped(measured[key]) for key in ("way", "split", "seeds"))
    head = f"{way}-way, on the {split} classes, {f'over {seeds} seeds of training' if seeds != '1' else 'one network'}, computed in "
    lines = [
        f"{head}{', '.join(map(_escaped, measured['computed_on']))}.",
        "",
        "| images per class | accuracy, % | episodes |",
        "|---:|---:|---:|",
    ]
    for shot, value in measured["shots"].items():
        lines.append(f"| {_escaped(shot)} | {100 * value['mean']:.1f} ± {100 * value['interval']:.1f} | {value['n']:d} |")
    return lines


def _escaped(value: object) -> str:
    """A value of a stranger's file as plain text in Markdown and HTML, in one line."""
    text = printable(" ".join(str(value).split()))
    escaped = "".join(f"\\{character}" if character in r"\`*_{}[]()#+!|~" else character for character in text)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
