"""Tables of few-shot results (plain text, Markdown), summary sentences, teacher reliability warnings, gradient agreement.

``results`` is the content of ``results.json``: ``split``, ``way``, ``query``, ``episodes`` and ``rows``. A row holds ``name``, ``kind``
(``arm``, ``baseline`` or ``oracle``), ``description``, ``networks``, ``parameters``, ``seeds`` and ``shots``, which maps the number of
support images per class to ``mean`` and ``interval`` (half-width of the 95 % interval), both fractions in [0, 1], ``n`` episodes and
``per_seed``, which holds the same per ``seed``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

KINDS = {"arm": "Trained without data", "baseline": "Baselines", "oracle": "Oracles, trained on real data"}  # in the order of the tables

Results = Mapping[str, Any]
Row = Mapping[str, Any]


def plain_table(results: Results) -> str:
    """Fixed-width text for a terminal: all rows grouped by kind, accuracy in % with its 95 % interval, number of episodes."""
    names = shots(results)
    header = ["", "networks", "parameters", "seeds", "episodes", *(_shot_label(shot) for shot in names)]
    body: list[list[str]] = []
    for title, rows in groups(results):
        body.append([title])
        body.extend(_cells(row, names, indent="  ") for row in rows)
    lines = [f"{caption(results)}, mean ± half-width of the 95 % interval", "", *_aligned([header, *body])]
    named = best_teachers(results)
    return "\n".join(lines) + "\n" + (f"\n{named}\n" if named else "") + _plain_domains(results)


def _plain_domains(results: Results) -> str:
    table = domain_table(results)
    if not table:
        return ""
    return "\n" + "\n".join(_aligned(table)) + "\n"


def domain_table(results: Results) -> list[list[str]]:
    """Accuracies within each domain: a header, then one line per table row; empty unless the evaluation was by domain."""
    rows = [row for row in results["rows"] if row.get("domains")]
    if not rows:
        return []
    columns = [(domain, shot) for domain in rows[0]["domains"] for shot in shots(results)]
    lines = [["by domain", *(f"{_printable(domain)} {_shot_label(shot)}" for domain, shot in columns)]]
    for _, group in groups(results):
        lines += [[_printable(row["name"]), *(accuracy(row["domains"][domain][shot]) for domain, shot in columns)] for row in group]
    return lines


def markdown_table(results: Results) -> str:
    """The same table in Markdown, for a README or an MLflow description."""
    names = shots(results)
    header = ["", "networks", "parameters", "seeds", "episodes", *(_shot_label(shot) for shot in names)]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for title, rows in groups(results):
        lines.append([f"**{title}**", *[""] * (len(header) - 1)])
        lines.extend([_markdown_text(cell) for cell in _cells(row, names)] for row in rows)
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{caption(results)}, mean ± half-width of the 95 % interval.\n\n{table}\n"


def summary_sentences(results: Results) -> list[str]:
    """Summary of the table at the largest number of shots: the best arm, then its difference to each reference row.

    Reference rows are the best baseline with one network, the best baseline of any kind and the best oracle, where they exist. Empty
    without arms.
    """
    shot = shots(results)[-1]
    by_kind = {kind: [row for row in results["rows"] if row["kind"] == kind and shot in row["shots"]] for kind in KINDS}
    if not by_kind["arm"]:
        return []
    best = _best(by_kind["arm"], shot)
    arms = len(by_kind["arm"])
    chosen = f", the highest of {arms} arms on these classes" if arms > 1 else ""
    sentences = [f"With {shot} images per class the best arm is {best['name']}: {accuracy(best['shots'][shot])} %{chosen}."]
    single = [row for row in by_kind["baseline"] if row["networks"] == 1]
    references: list[tuple[str, Row]] = []
    if single:
        references.append(("the best baseline with one network", _best(single, shot)))
    if by_kind["baseline"] and (best_of_all := _best(by_kind["baseline"], shot))["networks"] != 1:
        size = f"{best_of_all['networks']} networks" if best_of_all["networks"] else "no network"
        references.append((f"the best baseline of any kind ({size})", best_of_all))
    if by_kind["oracle"]:
        references.append(("the best oracle, trained on real data", _best(by_kind["oracle"], shot)))
    for label, row in references:
        points = 100 * (best["shots"][shot]["mean"] - row["shots"][shot]["mean"])
        place = "above" if points >= 0 else "below"
        sentences.append(f"{abs(points):.1f} percentage points {place} {label}: {row['name']}, {accuracy(row['shots'][shot])} %.")
    return sentences


def networks_table(rows: Sequence[Row]) -> str:
    """Fixed-width text for a terminal: networks that can learn new classes, the most accurate first.

    ``rows``: those of ``datafree.predict.candidates.compare`` with ``latency``, milliseconds for one image.
    """
    names = network_shots(rows)
    header = ["", "kind", "networks", "parameters", "multiply-adds", "ms", *map(_shot_label, names)]
    body = [[_printable(row["name"]), *network_cells(row, names)] for row in rows]
    title = "accuracy in % on the validation classes; parameters, multiply-adds and milliseconds of one image"
    return "\n".join([title, "", *_aligned([header, *body], left=2), "", network_sentence(rows)]) + "\n"


def network_sentence(rows: Sequence[Row]) -> str:
    """Which network ``datafree adapt`` uses, and what the most accurate one would gain and cost, if that is another; for N ≥ 1 rows."""
    default = next(row for row in rows if len(row["members"]) == 1)
    sentence = f"Of the single networks, {_printable(default['name'])} is the most accurate; datafree adapt uses it by default."
    if rows[0] is default:
        return sentence
    pairs = [(rows[0]["shots"][shot], default["shots"][shot]) for shot in default["shots"]]
    gain = sum(best["mean"] - value["mean"] for best, value in pairs) / len(pairs)
    within = ", which is within the intervals," if gain < max(max(best["interval"], value["interval"]) for best, value in pairs) else ""
    times = f"{rows[0]['macs'] / default['macs']:.2g} times the multiply-adds"
    name = _printable(rows[0]["name"])
    return f"{sentence} {name} side by side are {100 * gain:.1f} percentage points more accurate{within} with {times}: --backbone '{name}'."


def network_shots(rows: Sequence[Row]) -> list[str]:
    """The numbers of shots of the rows, ascending."""
    return sorted({shot for row in rows for shot in row["shots"]}, key=int)


def network_cells(row: Row, names: Sequence[str]) -> list[str]:
    """Kind, number of networks, parameters, multiply-adds, milliseconds, and the accuracy for each number of shots."""
    sizes = [magnitude(row[key]) for key in ("parameters", "macs")]
    return [row["kind"], str(len(row["members"])), *sizes, f"{row['latency']:.3g}", *(accuracy(row["shots"][shot]) for shot in names)]


def best_teachers(results: Results) -> str:
    """One line that names the best teacher of each number of shots; empty without single teachers."""
    teachers = [teacher for row in results["rows"] if not row.get("variant") for teacher in row.get("teachers", [])]
    if not teachers:
        return ""
    best = [f"{_printable(_best(teachers, shot)['name'])} at {shot} {'shot' if shot == '1' else 'shots'}" for shot in shots(results)]
    return f"best teacher: {', '.join(best)}"


def reliability_warnings(reliability: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line per inversion method whose pools do not allow a judgement, and one per method and teacher with a sampling weight below 1.

    ``reliability``: contents of reliability.json per method.
    """
    lines = []
    for method, content in reliability.items():
        if content["not_judged"]:
            lines.append(f"the reliability of the teachers is not judged (pools recovered by {method}): {content['not_judged']}")
        for row in content["teachers"]:
            if row["weight"] < 1:
                use = f"used with sampling weight {row['weight']:.2f}" if row["weight"] else "not used"
                lines.append(f"teacher {_printable(row['name'])} is {use} (pool recovered by {method}): {row['reason']}")
    return lines


def gradient_agreement(curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> dict[str, tuple[float, float]]:
    """Per arm the first and the last measured ``gradient_cosine``, each the mean over seeds; arms without measurements are left out."""
    measured = {
        arm: [values for curve in seeds if (values := [row["gradient_cosine"] for row in curve if "gradient_cosine" in row])]
        for arm, seeds in curves.items()
    }
    return {
        arm: (sum(values[0] for values in seeds) / len(seeds), sum(values[-1] for values in seeds) / len(seeds))
        for arm, seeds in measured.items()
        if seeds
    }


def caption(results: Results) -> str:
    """Table caption: way, split and, where recorded, the hardware."""
    where = f", computed in {' and '.join(results['computed_on'])}" if results.get("computed_on") else ""  # older files lack it
    return f"{results['way']}-way accuracy in % on the {results['split']} classes{where}"


def shots(results: Results) -> list[str]:
    """The numbers of shots that any row reports, ascending, as the strings that key ``row["shots"]``."""
    return sorted({shot for row in results["rows"] for shot in row["shots"]}, key=int)


def groups(results: Results) -> list[tuple[str, Sequence[Row]]]:
    """Title and rows of each kind, in the order arms, baselines, oracles; kinds without rows are left out."""
    by_kind = [(title, [row for row in results["rows"] if row["kind"] == kind]) for kind, title in KINDS.items()]
    return [(title, rows) for title, rows in by_kind if rows]


def accuracy(value: Mapping[str, Any]) -> str:
    """Mean and interval of one result in percent, such as ``61.0 ± 0.8``."""
    return f"{100 * value['mean']:.1f} ± {100 * value['interval']:.1f}"


def episodes(row: Row) -> str:
    """Number of episodes of a row; a range if it differs between shots."""
    counts = sorted({value["n"] for value in row["shots"].values()})
    return "–".join(str(count) for count in counts[:: max(1, len(counts) - 1)])


def magnitude(count: float | None) -> str:
    """A count in three significant digits, such as ``113 k`` or ``4.98 M``; a dash when unknown."""
    if count is None:
        return "–"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * limit:
            scaled = count / limit
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {unit}"
    return f"{count:g}"


def _best(rows: Sequence[Row], shot: str) -> Row:
    return max(rows, key=lambda row: row["shots"][shot]["mean"])


def _cells(row: Row, names: Sequence[str], indent: str = "") -> list[str]:
    scores = [accuracy(row["shots"][shot]) if shot in row["shots"] else "–" for shot in names]
    return [
        indent + _printable(row["name"]),
        str(row["networks"]),
        magnitude(row["parameters"]),
        str(len(row["seeds"])),
        episodes(row),
        *scores,
    ]


def _shot_label(shot: str) -> str:
    return f"{shot}-shot"


def _printable(text: str) -> str:
    # Names may come from a downloaded manifest; control characters would act on the terminal.
    return "".join(character if character.isprintable() else "?" for character in str(text))


def _markdown_text(text: str) -> str:
    for character in "\\`*_[]<>|":
        text = text.replace(character, "\\" + character)
    return text


def _aligned(table: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of fixed-width text: the first ``left`` columns flush left, the others right. A row may have fewer cells than the header."""
    widths = [max(_width(line[column]) for line in table if column < len(line)) for column in range(len(table[0]))]
    signed = [width if column < left else -width for column, width in enumerate(widths)]
    return ["  ".join(_pad(cell, width) for cell, width in zip(line, signed, strict=False)).rstrip() for line in table]


def _width(text: str) -> int:
    """Width of a text in terminal columns: wide East Asian characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _pad(text: str, width: int) -> str:
    """Pad to ``width`` columns, on the left when it is negative."""
    space = " " * (abs(width) - _width(text))
    return space + text if width < 0 else text + space
