"""``datafree zoo``: list the teachers of a manifest, check them, add one."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datafree.errors import UserError

if TYPE_CHECKING:
    from datafree.zoo.checking import TeacherReport

zoo_app = typer.Typer(no_args_is_help=True, help=__doc__)
WIDTH = 160  # characters of a table that is not printed to a terminal
Manifest = Annotated[Path, typer.Argument(help="The YAML file that lists the teachers")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]


@zoo_app.command()
def check(
    manifest: Manifest,
    images: Annotated[Path | None, typer.Option(help="Folder of real images to measure accuracy, one subfolder per class")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Check only the first LIMIT teachers; default: all")] = None,
    as_json: AsJson = False,
) -> None:
    """Load every teacher and look for signs that it is broken; exit status 1 if one is. Downloads missing checkpoints."""
    import torch

    from datafree.stages.teacher import CACHE
    from datafree.zoo.checking import BROKEN
    from datafree.zoo.checking import check as check_teachers

    torch.set_num_threads(1)
    reports = check_teachers(manifest, CACHE, images, limit)
    broken = sum(report.state == BROKEN for report in reports)
    if as_json:
        print(json.dumps({"manifest": str(manifest), "broken": broken, "teachers": [asdict(report) for report in reports]}, indent=2))
    else:
        _print_reports(reports)
    for report in reports:
        for kind, lines in (("broken", report.problems), ("note", report.remarks)):
            for line in lines:
                print(f"{kind}: {report.name}: {line}", file=sys.stderr)
    if broken:
        raise typer.Exit(1)


def _print_reports(reports: list[TeacherReport]) -> None:
    rows = []
    for report in reports:
        measured = "" if report.accuracy is None else f"{report.accuracy:.4f} (n = {report.images})"
        counts = [_short(report.parameters), _short(report.macs), str(report.classes), _text(report.batch_norm_layers)]
        rows.append([report.name, report.architecture, *counts, measured, report.state])
    _print_table(["name", "architecture", "parameters", "MACs", "classes", "BatchNorm", "accuracy", "state"], rows, "sound")


@zoo_app.command("list")
def list_teachers(manifest: Manifest, as_json: AsJson = False) -> None:
    """List the teachers of a manifest with their sources. Reads no checkpoint."""
    from datafree.zoo.manifest import read_manifest

    rows = []
    for entry in read_manifest(manifest):
        config = entry.architecture.backbone()
        rows.append(
            {
                "name": entry.name,
                "source": entry.origin,
                "architecture": f"{config.name} {config.width}" if config.width else config.name,
                "classes": entry.class_count,
                "licence": entry.licence,
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        _print_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows], "")


@zoo_app.command()
def add(
    manifest: Annotated[Path, typer.Argument(help="The YAML file to append to; created if it does not exist")],
    name: Annotated[str, typer.Option(help="Letters, digits, _ and -")],
    file: Annotated[Path | None, typer.Option(help="A local checkpoint file")] = None,
    url: Annotated[str, typer.Option(help="An http(s) address; needs --sha256")] = "",
    torchvision: Annotated[str, typer.Option(help="Published weights, such as ResNet18_Weights.IMAGENET1K_V1")] = "",
    timm: Annotated[str, typer.Option(help="A pretrained model of timm; needs --sha256")] = "",
    hub: Annotated[str, typer.Option(help="owner/repository/file on the Hugging Face hub; needs --sha256")] = "",
    sha256: Annotated[str, typer.Option(help="Of the file; computed for --file")] = "",
    classes: Annotated[str, typer.Option(help="Names in the order of the logits, separated by commas")] = "",
    architecture: Annotated[str, typer.Option(help="A name of datafree.zoo.backbones")] = "",
    width: Annotated[int, typer.Option(min=0, help="Channels of the first stage; 0 = the architecture's default")] = 0,
    shape: Annotated[str, typer.Option("--input", help="Channels, height, width, such as 3,32,32")] = "",
    mean: Annotated[str, typer.Option(help="Per channel, of images scaled to [0, 1], such as 0.5,0.5,0.5")] = "",
    std: Annotated[str, typer.Option(help="As --mean")] = "",
    keys: Annotated[list[str], typer.Option("--key", help="old=new renames tensors, old= drops them; may be repeated")] = [],  # noqa: B006
    licence: Annotated[str, typer.Option(help="Of the weights")] = "",
) -> None:
    """Append a teacher to a manifest; options that are not given come from its `defaults`. Comments and order are kept."""
    from datafree.zoo.editing import add_entry

    given = {"url": url, "torchvision": torchvision, "timm": timm, "hub": hub}
    spec: dict[str, Any] = {"name": name, **_file(file, sha256, manifest), **{key: value for key, value in given.items() if value}}
    if sha256 and file is None:
        spec["sha256"] = sha256
    if architecture or width:
        spec["architecture"] = ({"name": architecture} if architecture else {}) | ({"width": width} if width else {})
    if classes:
        spec["classes"] = [label.strip() for label in classes.split(",")]
    for key, text, kind in (("input", shape, int), ("mean", mean, float), ("std", std, float)):
        if text:
            spec[key] = _numbers(key, text, kind)
    if keys:
        spec["keys"] = dict(_rule(text) for text in keys)
    if licence:
        spec["licence"] = licence
    entry = add_entry(manifest, spec)
    print(f"{manifest}: added {entry.name}; check it with `datafree zoo check {manifest}`", file=sys.stderr)


def _file(file: Path | None, sha256: str, manifest: Path) -> dict[str, str]:
    """The manifest's ``file``, relative to it unless given as an absolute path, and its hash."""
    if file is None:
        return {}
    from datafree.zoo import loading

    digest = loading.verify(file, sha256)
    path = file if file.is_absolute() else Path(os.path.relpath(file.absolute(), manifest.absolute().parent))
    return {"file": str(path), "sha256": digest}


def _numbers(key: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--{key}: got {text!r}; expected numbers separated by commas, one per channel or side") from None


def _rule(text: str) -> tuple[str, str | None]:
    old, equals, new = text.partition("=")
    if not equals:
        raise UserError(f"--key: got {text!r}; expected old=new, or old= to drop tensors")
    return old, new or None


def _print_table(columns: list[str], rows: list[list[str]], normal: str) -> None:
    """Print a table; rows whose last column is not ``normal`` are highlighted, none if it is empty."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape(value) for value in row), style="yellow" if normal and row[-1] != normal else "")
    console.print(table)


def _short(number: int | None) -> str:
    """A count with three significant digits and a unit; empty for None."""
    if number is None:
        return ""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _text(value: object) -> str:
    return "" if value is None else str(value)
