import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from datafree.data.decoding import read_image
from datafree.errors import UserError
from datafree.predict import export
from datafree.predict.classifier import fit
from datafree.predict.estimator import FewShotEstimator

EXAMPLE = Path(__file__).parents[2] / "examples" / "classify_with_onnx.py"
CLASSES = ["ant", "<b>bee", "猫"]


def images(count, size=16, seed=0):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def classifier_of(learner):
    return fit(learner.represent(images(9)), torch.arange(9) % 3, 3, learner.negatives, reject=0.2)


def expected(learner, classifier, given):
    values = learner.network(given)
    return [values] if classifier is None else [classifier.logits(values), classifier.similarity(values)]


def run_onnx(path, given):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": given.numpy()}), session


def run_torch(path, given):
    extra = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=extra)
    outputs = program.module()(given)
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs), json.loads(extra["metadata.json"])


@pytest.fixture(scope="module")
def exported(variants, tmp_path_factory):
    """A function from the options of a learner, and whether it gets a classifier, to both and the ONNX file, which is written once."""

    @functools.cache
    def write(classifies, **options):
        learner = variants(**options)
        classifier = classifier_of(learner) if classifies else None
        path = tmp_path_factory.mktemp("exported") / "m.onnx"
        export.write_onnx(path, export.module_of(learner, classifier), 16, export.metadata_of(learner, classifier, CLASSES))
        return learner, classifier, path

    return write


@pytest.mark.parametrize(
    ("heads", "kind"),
    [({"heads": False, "mirrored": False}, "features"), ({"heads": True}, "classifier"), ({"shared": True}, "classifier")],
    ids=str,
)
def test_onnx_gives_the_same_values_for_any_number_of_images(exported, heads, kind):
    learner, classifier, path = exported(kind == "classifier", **heads)
    for count in (1, 2, 7):
        outputs, session = run_onnx(path, images(count, seed=count))
        for output, wanted in zip(outputs, expected(learner, classifier, images(count, seed=count)), strict=True):
            np.testing.assert_allclose(output, wanted.numpy(), atol=1e-4)
    assert [output.name for output in session.get_outputs()] == list(export.module_of(learner, classifier).outputs)
    assert session.get_inputs()[0].shape == ["N", 3, 16, 16]


def test_networks_side_by_side_give_the_same_values(group, tmp_path):
    given = images(4, size=20)
    export.write_onnx(tmp_path / "m.onnx", export.module_of(group, None), 20, export.metadata_of(group, None, []))
    export.write_torch(tmp_path / "m.pt2", export.module_of(group, None), 20, export.metadata_of(group, None, []))
    for outputs in (run_onnx(tmp_path / "m.onnx", given)[0], run_torch(tmp_path / "m.pt2", given)[0]):
        np.testing.assert_allclose(np.asarray(outputs[0]), group.network(given).numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["features", "classifier"])
def test_an_exported_program_gives_the_same_values_for_any_number_of_images(learner, tmp_path, kind):
    classifier = classifier_of(learner) if kind == "classifier" else None
    export.write_torch(tmp_path / "m.pt2", export.module_of(learner, classifier), 16, export.metadata_of(learner, classifier, CLASSES))
    for count in (1, 5):
        outputs, metadata = run_torch(tmp_path / "m.pt2", images(count, seed=count))
        for output, wanted in zip(outputs, expected(learner, classifier, images(count, seed=count)), strict=True):
            torch.testing.assert_close(output, wanted, atol=1e-4, rtol=0)
    assert json.loads(metadata["kind"]) == kind


def test_labels_threshold_and_preprocessing_are_in_the_file(exported):
    learner, classifier, path = exported(True, heads=True)
    metadata = export.metadata_of(learner, classifier, CLASSES)
    properties = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props if entry.key in metadata}
    assert properties["classes"] == CLASSES
    assert properties["threshold"] == classifier.threshold
    assert properties["preprocessing"]["input"] == ["N", 3, 16, 16]
    assert properties["card"]["backbone"]["name"] == "conv4"
    assert not {"classes", "threshold"} & set(export.metadata_of(learner, None, []))


def test_a_quantised_model_gives_nearly_the_same_values(learner, tmp_path):
    classifier = classifier_of(learner)
    metadata = export.metadata_of(learner, classifier, CLASSES)
    export.write_onnx(tmp_path / "m.onnx", export.module_of(learner, classifier), 16, metadata, images(60, seed=5))
    (logits, similarity), _ = run_onnx(tmp_path / "m.onnx", images(40, seed=6))
    wanted = [value.numpy() for value in expected(learner, classifier, images(40, seed=6))]
    assert 0 < np.abs(logits - wanted[0]).max() < 0.5 * wanted[0].std() + 0.5
    assert np.corrcoef(logits.ravel(), wanted[0].ravel())[0, 1] > 0.95
    assert np.corrcoef(similarity, wanted[1])[0, 1] > 0.9
    model = onnx.load(tmp_path / "m.onnx")
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in model.graph.node}
    assert json.loads({entry.key: entry.value for entry in model.metadata_props}["classes"]) == CLASSES


def test_the_exported_network_is_a_copy(learner):
    module = export.module_of(learner, None)
    assert module.network is not learner.network


def test_without_the_packages_for_onnx_one_line_names_them(learner, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "FOR_ONNX", ("onnx", "no_such_package"))
    with pytest.raises(
        UserError, match=r"--format onnx: needs the package no_such_package; install it with `pip install 'datafree\[export\]'`"
    ):
        export.write_onnx(tmp_path / "m.onnx", export.module_of(learner, None), 16, {})
    assert not list(tmp_path.iterdir())


def test_the_example_labels_images_as_datafree_does_without_it(learner, tmp_path):
    estimator = FewShotEstimator(learner, reject=0.3, unknown="none of these")
    estimator.fit(images(12, 20), np.array(CLASSES)[np.arange(12) % 3])
    order = [str(name) for name in estimator.classes_]
    metadata = export.metadata_of(learner, estimator.classifier_, order)
    export.write_onnx(tmp_path / "m.onnx", export.module_of(learner, estimator.classifier_), 16, metadata)
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path, image in zip(paths, images(6, 24, seed=7), strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    blocked = (
        "import runpy, sys; sys.modules['datafree'] = sys.modules['torch'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    command = [sys.executable, "-c", blocked, str(EXAMPLE), str(tmp_path / "m.onnx"), *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    batch = torch.stack([read_image(path, 16) for path in paths])
    labels, probabilities = estimator.predict(batch), estimator.predict_proba(batch).max(1)
    wanted = [f"{path}: {name}, {100 * p:.1f} %" for path, name, p in zip(paths, labels, probabilities, strict=True)]
    assert result.stdout.splitlines() == wanted
