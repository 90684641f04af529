"""``datafree adapt``, ``classify`` and ``export``: learn classes from folders of images, label other images, take the result elsewhere."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datafree.errors import UserError

if TYPE_CHECKING:
    from datafree.predict.estimator import FewShotEstimator
    from datafree.predict.labels import Label
    from datafree.stages.files.trained import Limits

MOST_CLASSES, MOST_IMAGES = 1000, 200  # of one classifier; of one class
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]
MaxParameters = Annotated[int | None, typer.Option(min=1, help="Use a network of at most so many parameters")]
MaxMacs = Annotated[int | None, typer.Option(min=1, help="Use a network of at most so many multiply-adds per image")]
MaxLatency = Annotated[float | None, typer.Option(help="Use a network of at most so many milliseconds per image, as the run measured it")]


def adapt(
    folder: Annotated[Path, typer.Argument(help="Has one folder of images for each class")],
    output: Annotated[Path, typer.Option(help="The classifier to write, a .safetensors file")],
    learner: Annotated[str, typer.Option(help="An arm of this project, or the file of a learner")] = "",
    backbone: Annotated[str, typer.Option(help="Teachers of this project to use in place of a learner: a name, or '4 teachers'")] = "",
    max_parameters: MaxParameters = None,
    max_macs: MaxMacs = None,
    max_latency: MaxLatency = None,
    reject: Annotated[float, typer.Option(help="Share of images of the classes that may be labelled as none of them; 0: none is")] = 0.05,
    device: Device = "auto",
) -> None:
    """Learn classes from folders of images.

    Each class needs one image or more. The network is not changed, so this takes seconds. Writes a classifier for `datafree classify`.
    Without --learner and --backbone, the network is used that was most accurate on the validation classes: a single learner or teacher, or
    with limits the best within them, also several teachers side by side. `datafree networks` lists all.
    """
    from datafree import devices
    from datafree.data.decoding import read_images
    from datafree.data.layout import labelled_files
    from datafree.predict.estimator import FewShotEstimator
    from datafree.predict.files import SUFFIX
    from datafree.stages.files import trained

    if output.suffix != SUFFIX:
        raise UserError(f"--output: got {output}; expected a name that ends in {SUFFIX}")
    if learner and backbone:
        raise UserError("--learner and --backbone: expected at most one of them, got both")
    limits = trained.Limits(max_parameters, max_macs, max_latency)
    if limits and (learner or backbone):
        raise UserError("--max-parameters, --max-macs, --max-latency: choose among all networks; leave out --learner and --backbone")
    if not 0 <= reject < 1:
        raise UserError(f"--reject: got {reject}; allowed: at least 0 and less than 1")
    _refuse_same(output, [learner])
    files = labelled_files(folder)
    _check(folder, files)
    _silence_decoders()
    with devices.use(device) as used:
        if not (learner or backbone):
            learner, backbone = _best(limits)
        network = trained.load_teacher(backbone) if backbone else trained.load_learner(learner)
        network.network.to(used)
        paths = [path for of_class in files.values() for path in of_class]
        images = read_images(paths, network.image_size, "reading images", _threads(len(paths)))
        labels = [name for name, of_class in files.items() for _ in of_class]
        estimator = FewShotEstimator(network, reject).fit(images, labels)
        estimator.save(output)
    counts = sorted(map(len, files.values()))
    images_each = str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    name = backbone or network.card.get("arm", "the learner")
    print(f"{output}: {len(files)} classes of {images_each} images each, by {name}; {_rejection(estimator, reject)}", file=sys.stderr)


def _check(folder: Path, files: dict[str, list[Path]]) -> None:
    from datafree.predict.labels import check_class_name

    for name in files:
        check_class_name(name)
    if len(files) > MOST_CLASSES:
        raise UserError(f"{folder}: {len(files)} classes; allowed: at most {MOST_CLASSES}")
    for name, of_class in files.items():
        if len(of_class) > MOST_IMAGES:
            raise UserError(f"{folder / name}: {len(of_class)} images; allowed: at most {MOST_IMAGES}, more bring little; remove some")


def classify(
    classifier: Annotated[Path, typer.Argument(help="A classifier, as `datafree adapt` writes it")],
    images: Annotated[list[str], typer.Argument(help="Images, folders of images, or - for an image or paths on standard input")],
    format: Annotated[str, typer.Option(help="table, csv or jsonl; default: table on a terminal, else csv")] = "",
    output: Annotated[Path | None, typer.Option(help="Write to this file, not to standard output")] = None,
    every: Annotated[bool, typer.Option("--all", help="Print the probabilities of all classes")] = False,
    device: Device = "auto",
) -> None:
    """Label images with a classifier.

    Prints the class, its calibrated probability, and "none of these" for images unlike all classes. An unreadable image gets a line on
    standard error; the others are labelled, and the exit status is 2.
    """
    from datafree import artifacts, devices
    from datafree.predict import labels, photos
    from datafree.predict.files import read_classifier

    chosen = format or ("table" if output is None and sys.stdout.isatty() else "csv")
    if chosen not in labels.WRITERS:
        raise UserError(f"--format: got {chosen}; allowed: {', '.join(labels.WRITERS)}")
    sources = photos.find(images, sys.stdin.buffer)
    if output:
        _refuse_same(output, [classifier, *(source.content for source in sources if isinstance(source.content, Path))])
    _silence_decoders()
    with devices.use(device) as used:
        learner, fitted, classes = read_classifier(classifier)
        learner.network.to(used)
        rows: list[Label] = []
        unreadable = 0
        for names, batch, errors in photos.batches(sources, learner.image_size, _threads(len(sources))):
            for error in errors:
                print(f"datafree: {error}", file=sys.stderr)
            unreadable += len(errors)
            if names:
                rows += labels.label(fitted, classes, names, learner.represent(batch))
    text = labels.WRITERS[chosen](rows, classes, every)
    if output:
        artifacts.write_text(output, text)
    else:
        sys.stdout.write(text)
    if unreadable:
        raise typer.Exit(2)


def export(
    source: Annotated[
        str, typer.Argument(help="A classifier that `datafree adapt` wrote; or an arm of this project or the file of a learner")
    ],
    output: Annotated[Path, typer.Option(help="The file to write")],
    format: Annotated[str, typer.Option(help="onnx, torch, or safetensors for use with datafree; default: by the name of the file")] = "",
    backbone: Annotated[bool, typer.Option("--backbone", help="SOURCE is a teacher of this project")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="onnx: 8-bit convolutions, calibrated on this project's recovered images")] = False,
) -> None:
    """Write a file for other programs.

    A classifier, or the feature extractor of a learner or a teacher. The formats onnx and torch need no datafree, safetensors needs no
    project.
    """
    from datafree.extras import import_extra
    from datafree.predict import export as exporting
    from datafree.predict import files
    from datafree.stages.files import trained

    extensions = {**{name: extension for name, (extension, _) in exporting.FORMATS.items()}, "safetensors": files.SUFFIX}
    chosen = format or next((name for name, extension in extensions.items() if extension == output.suffix), "")
    if chosen not in extensions:
        raise UserError(
            f"--format: got {format or output.name}; allowed: {', '.join(extensions)}, or a file name ending in one of their extensions"
        )
    if output.suffix != extensions[chosen]:
        raise UserError(f"--output: got {output}; expected a name that ends in {extensions[chosen]}")
    _refuse_same(output, [source])
    if int8 and chosen != "onnx":
        raise UserError(f"--int8: got the format {chosen}; allowed: onnx")
    classifier, classes = None, []
    if not backbone and files.is_portable(Path(source), files.CLASSIFIER):
        learner, classifier, classes = files.read_classifier(Path(source))
    else:
        learner = trained.load_teacher(source) if backbone else trained.load_learner(source)
    if chosen == "safetensors":
        files.write_learner(output, learner)
    else:
        options: dict = {}
        if int8:
            import_extra("onnxruntime", "export", "--int8")
            options = {"calibration": trained.calibration_images(learner)}
        metadata = exporting.metadata_of(learner, classifier, classes)
        exporting.FORMATS[chosen][1](output, exporting.module_of(learner, classifier), learner.image_size, metadata, **options)
    what = "a feature extractor" if classifier is None or chosen == "safetensors" else f"a classifier of {len(classes)} classes"
    print(f"{output}: {what} for images of {learner.image_size} pixels, {output.stat().st_size / 1e6:.1f} MB", file=sys.stderr)


def card(
    source: Annotated[str, typer.Argument(help="An arm of this project, or the file of a learner or of a classifier")],
    backbone: Annotated[bool, typer.Option("--backbone", help="SOURCE is a teacher of this project")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of Markdown")] = False,
    output: Annotated[Path | None, typer.Option(help="Write to this file, not to standard output")] = None,
) -> None:
    """Print the model card of a network.

    How it was made, from which teachers, under which licences, its measured accuracy, and its known limits.
    """
    import json

    from datafree import artifacts
    from datafree.predict import model_card
    from datafree.stages.files import trained

    if output:
        _refuse_same(output, [source])
    learner = trained.load_teacher(source) if backbone else trained.load_learner(source)
    try:
        described = model_card.model_card(learner.card)
        markdown = model_card.as_markdown(described)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{source}: its card is damaged ({type(error).__name__}: {error}); make the file again") from None
    text = json.dumps(described, indent=2, ensure_ascii=False) + "\n" if as_json else markdown
    if output:
        artifacts.write_text(output, text)
    else:
        sys.stdout.write(text)


def demo(
    learner: Annotated[list[str] | None, typer.Option(help="An arm of this project, or the file of a learner; may be repeated")] = None,
    backbone: Annotated[list[str] | None, typer.Option(help="A teacher of this project; may be repeated")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one")] = 8501,
) -> None:
    """Try learners on a local page.

    Drop photos into classes and see how others are labelled; several learners side by side. Without options, the network that was most
    accurate in the last evaluation. Only this computer can open the page. Ctrl-C ends it.
    """
    from datafree.extras import import_extra
    from datafree.stages.files import trained

    import_extra("flask", "demo", "demo")
    from datafree.predict.demo.server import serve

    if not (learner or backbone):
        learner, backbone = ([name] if name else [] for name in _best(trained.Limits()))
    networks = {name: trained.load_learner(name) for name in learner or []}
    for name in backbone or []:
        teacher = trained.load_teacher(name)
        networks[f"{name} (teacher)" if len(teacher.members) == 1 else name] = teacher
    serve(networks, port)


def networks() -> None:
    """List the networks of this project that can learn new classes.

    Accuracy on the validation classes, size and time of every learner, every teacher, and of the best teachers side by side.
    """
    from datafree.report.tables import networks_table
    from datafree.stages.files import trained

    sys.stdout.write(networks_table(trained.compared()))


def _best(limits: Limits) -> tuple[str, str]:
    """The names of the learner and of the teacher or teachers to use, one of them empty."""
    from datafree.predict.comparison import LEARNER
    from datafree.stages.files import trained

    chosen = trained.best_network(limits)
    return (chosen["name"], "") if chosen["kind"] == LEARNER else ("", chosen["name"])


def _refuse_same(output: Path, inputs: Iterable[str | Path]) -> None:
    """Refuse an output that would replace one of the inputs."""
    if output.exists() and any(Path(path).exists() and output.samefile(path) for path in inputs if str(path)):
        raise UserError(f"--output: {output} is also an input, which would be lost; choose another name")


def _silence_decoders() -> None:
    """Do not print the decoders' warnings of odd metadata in images that they can read."""
    import warnings

    warnings.filterwarnings("ignore", module="PIL")


def _threads(images: int) -> int:
    """Threads that decode: one per core, and no more than there are images."""
    return max(1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, images))


def _rejection(estimator: FewShotEstimator, reject: float) -> str:
    basis, share = estimator.classifier_.basis, f"{100 * (1 - reject):g} %"
    if basis == "none":
        return "every image gets a class"
    if basis == "support":
        return f"`none of these` for images less similar than {share} of images like these"
    fewest = math.ceil(1 / reject) - 1
    return (
        f"`none of these` for images less similar than {share} of recovered images, which is hardly any: for a better limit give at least "
        f"{fewest} images in classes of two or more"
    )
