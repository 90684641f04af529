"""``datafree pools``: write recovered images as PNG files, and compare them with real ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datafree.errors import UserError

if TYPE_CHECKING:
    from datafree.tasks.pools import Pool

pools_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
PAIRS = 8  # of recovered and real images that are shown per class
Method = Annotated[str, typer.Argument(help="An inversion method of this project")]
Teachers = Annotated[list[str] | None, typer.Option("--teacher", help="Only this teacher; may be repeated")]
Output = Annotated[Path, typer.Option(help="The folder to write; must not exist")]


@pools_app.callback()
def describe() -> None:
    """Write recovered images as PNG files, and compare them with real ones."""


@pools_app.command()
def export(method: Method, output: Output, teacher: Teachers = None) -> None:
    """Write pools as PNG files.

    Per teacher one folder for each class, a contact sheet (sheet.png), and a table with the label and the soft labels of each image
    (soft_labels.csv).
    """
    from datafree.predict.pool_folders import new_folder, write_pool

    pools = _pools(method, teacher)
    with new_folder(output) as folder:
        for name, pool in pools.items():
            write_pool(folder / name, pool)
    count = sum(len(pool.labels) for pool in pools.values())
    print(f"{output}: {count} images of {len(pools)} teachers", file=sys.stderr)


@pools_app.command()
def neighbours(
    method: Method,
    images: Annotated[Path, typer.Option(help="The teachers' training images, one folder for each class")],
    output: Output,
    teacher: Teachers = None,
) -> None:
    """Compare recovered images with the owner's real ones.

    For each recovered image, finds the most similar real image of the teacher's classes. Writes a table (neighbours.csv), and pairs of
    recovered and real images, the most similar ones first (<teacher>.png).
    """
    import torch

    from datafree import artifacts
    from datafree.data.decoding import read_images
    from datafree.data.images import contact_sheet
    from datafree.data.layout import labelled_files
    from datafree.evaluation.neighbours import neighbours as find
    from datafree.predict.pool_folders import new_folder

    files, pools = labelled_files(images), _pools(method, teacher)
    rows = []
    with new_folder(output) as folder:
        for name, pool in pools.items():
            paths = [path for label in pool.classes for path in files.get(label, [])]
            if missing := [label for label in pool.classes if label not in files]:
                print(
                    f"warning: {images} has no folder of {', '.join(missing[:5])}; {name} is compared without these classes",
                    file=sys.stderr,
                )
            if len(paths) < 2:
                raise UserError(
                    f"{images}: expected folders of the classes of {name}, such as {pool.classes[0]}; found {len(paths)} images"
                )
            real = read_images(paths, pool.images.shape[-1], f"reading images of {name}")
            if pool.images.shape[1] == 1:
                real = real.float().mean(1, keepdim=True).round().byte()
            found = find(pool.images, real)
            rows.append([name, len(pool.labels), len(real), found.distances.median().item(), found.ratio, found.closer])
            order = found.distances.argsort()[: PAIRS * len(pool.classes)]
            pairs = [image for place in order.tolist() for image in (pool.images[place], real[found.nearest[place]])]
            artifacts.write_image(folder / f"{name}.png", contact_sheet(torch.stack(pairs), 2 * PAIRS))
            shares = f"{found.ratio:.2f} of the distance between real images; {100 * found.closer:.1f} % nearer than 99 % of these"
            print(f"{name}: {found.distances.median():.1f} grey levels to the nearest real image, {shares}", file=sys.stderr)
        columns = [
            "teacher",
            "recovered images",
            "real images",
            "median distance, grey levels",
            "relative to real images",
            "share nearer than 99 %",
        ]
        artifacts.write_table(folder / "neighbours.csv", columns, rows)


def _pools(method: str, teachers: list[str] | None) -> dict[str, Pool]:
    from datafree.stages.files.pools import read_pool
    from datafree.stages.files.trained import INVERSION, ZOO, methods_with_pools

    known = methods_with_pools()
    if method not in known:
        raise UserError(f"{method} is no inversion method with recovered pools in this project; allowed: {', '.join(known) or 'none'}")
    folder = Path(INVERSION, method)
    names = sorted(path.parent.name for path in folder.glob("*/images.safetensors"))
    if unknown := [name for name in teachers or [] if name not in names]:
        raise UserError(f"--teacher: {unknown[0]} has no pool of {method}; allowed: {', '.join(names[:20])}")
    return {name: read_pool(folder / name / "images.safetensors", Path(ZOO, name, "card.json")) for name in teachers or names}
