"""Eight-bit integers for the convolutions of an ONNX model; their ranges are those on recovered images, so no real image is needed."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

from torch import Tensor

BATCH = 25  # images of a calibration pass


def quantised(model: bytes, images: Tensor) -> bytes:
    """An ONNX model with input ``images`` whose convolutions compute with 8-bit weights, per channel, and 8-bit activations.

    ``images`` uint8 [N, 3, S, S], N at least 1, determine the ranges of the activations. Everything else stays float32: the read-out and
    the classifier are sensitive to rounding. Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR 2018 (post-training quantisation, static ranges).
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Recovered(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(images.split(BATCH))

        def get_next(self) -> dict | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnxruntime warns of its own calls
        plain, prepared, result = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "result"))
        plain.write_bytes(model)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)  # joins BatchNorm with the convolutions
        quantize_static(
            prepared, result, Recovered(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8, op_types_to_quantize=["Conv"],
        )  # fmt: skip
        return result.read_bytes()
