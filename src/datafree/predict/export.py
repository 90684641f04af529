"""Export of a few-shot classifier or a feature extractor to formats that need no datafree: ONNX, and PyTorch's exported programs.

Both take ``images`` uint8 [N, 3, S, S] for any N ≥ 1, and normalise them. A classifier gives ``logits`` float32 [N, classes], whose softmax
is the calibrated probability, and ``similarity`` float32 [N], to compare with the threshold; a feature extractor gives ``features``
float32 [N, R]. The metadata are JSON texts: ``kind``, ``preprocessing`` and ``card``, and of a classifier ``classes`` and ``threshold``.
"""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datafree import artifacts
from datafree.extras import import_extra
from datafree.predict.classifier import FewShotClassifier
from datafree.predict.network import RepresentationNetwork, SideBySide, TrainedLearner
from datafree.predict.quantisation import quantised

EXAMPLES = 2  # images with which a graph is traced; with one, the number of images would be fixed
FOR_ONNX = ("onnx", "onnxscript")  # packages; PyTorch's exporter imports the second


class FeatureExtractor(nn.Module):
    """images uint8 [N, 3, S, S] → features float32 [N, R]."""

    outputs = ("features",)

    def __init__(self, network: RepresentationNetwork | SideBySide) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


class ClassifierNetwork(nn.Module):
    """images uint8 [N, 3, S, S] → logits float32 [N, classes] and similarity float32 [N], as ``FewShotClassifier`` computes them."""

    outputs = ("logits", "similarity")

    def __init__(self, network: RepresentationNetwork | SideBySide, classifier: FewShotClassifier) -> None:
        super().__init__()
        self.network, self.classifier = network, classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        values = self.network(images)
        return self.classifier.logits(values), self.classifier.similarity(values)


def module_of(learner: TrainedLearner, classifier: FewShotClassifier | None) -> FeatureExtractor | ClassifierNetwork:
    """The module to export, an independent copy on the CPU."""
    network = copy.deepcopy(learner.network).cpu()
    return FeatureExtractor(network) if classifier is None else ClassifierNetwork(network, classifier)


def metadata_of(learner: TrainedLearner, classifier: FewShotClassifier | None, classes: list[str]) -> dict[str, str]:
    """What a program needs to know to use an exported file, each value as JSON."""
    size = learner.image_size
    preprocessing = {
        "input": ["N", 3, size, size],
        "type": "uint8, 0 to 255, RGB",
        "resize": "to a square without keeping the proportions, bicubic with antialiasing",
        "normalisation": "inside the file",
    }
    values: dict[str, Any] = {"kind": "features", "preprocessing": preprocessing, "card": dict(learner.card)}
    if classifier is not None:
        values |= {"kind": "classifier", "classes": classes, "threshold": classifier.threshold}
    return {name: json.dumps(value, ensure_ascii=False, sort_keys=True) for name, value in values.items()}


def write_torch(path: Path, module: FeatureExtractor | ClassifierNetwork, size: int, metadata: dict[str, str]) -> None:
    """Write an exported program, which ``torch.export.load`` reads; the metadata are an extra file ``metadata.json``."""
    program, stream = _program(module, size), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of weights that share memory, which it stores once
        torch.export.save(program, stream, extra_files={"metadata.json": json.dumps(metadata, ensure_ascii=False)})
    with artifacts.atomic(path) as part:
        part.write_bytes(stream.getvalue())


def write_onnx(
    path: Path, module: FeatureExtractor | ClassifierNetwork, size: int, metadata: dict[str, str], calibration: Tensor | None = None
) -> None:
    """Write an ONNX model with the metadata among its properties; with ``calibration``, uint8 [N, 3, size, size], it is ``quantised``.

    Raises:
        UserError: the packages for ONNX are not installed.
    """
    onnx, _ = (import_extra(name, "export", "--format onnx") for name in FOR_ONNX)
    program = _program(module, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own calls
        exported = torch.onnx.export(program, (), dynamo=True, input_names=["images"], output_names=list(module.outputs), verbose=False)
    assert exported is not None
    model = exported.model_proto
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    with artifacts.atomic(path) as part:
        part.write_bytes(content if calibration is None else quantised(content, calibration))


FORMATS: dict[str, tuple[str, Callable[..., None]]] = {
    "onnx": (".onnx", write_onnx),
    "torch": (".pt2", write_torch),
}  # by name: extension and writer


def _program(module: nn.Module, size: int) -> torch.export.ExportedProgram:
    images = torch.zeros(EXAMPLES, 3, size, size, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of its own calls
        return torch.export.export(module, (images,), dynamic_shapes={"images": {0: torch.export.Dim("N", min=1)}}, strict=False)
