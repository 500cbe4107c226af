"""INT8 by ONNX Runtime: quantize and dequantize nodes around convolutions and matrix products, calibrated on images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from nasnet_det.export.package_files import HASH_KEY
from nasnet_det.export.programs import imported, quiet


def quantize_onnx(path: Path, calibration: Iterable[Tensor]) -> None:
    """Quantize an ONNX file in place: weights per channel, activations per tensor; both runtimes read the result.

    Activations are unsigned: with signed ones OpenVINO is less exact and ONNX Runtime slower. Weights have 7 bits,
    because sums of products of 8 bits saturate on processors without VNNI.

    Args:
        path: the file; its metadata is kept, except the hash of a sealed file.
        calibration: batches of images, from which the ranges of activations are taken.
    """
    quantization = imported("onnxruntime.quantization")
    onnx = imported("onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    metadata.pop(HASH_KEY, None)
    prepared = path.with_name(f"{path.name}.prepared")
    try:
        with quiet():
            quantization.quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared),
                str(path),
                _Feeds({"image": images.numpy()} for images in calibration),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                reduce_range=True,
                op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            )
    finally:
        prepared.unlink(missing_ok=True)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


class _Feeds:
    """ONNX Runtime's ``CalibrationDataReader``: inputs of the model one after the other, then None."""

    def __init__(self, feeds: Iterator[dict[str, Any]]) -> None:
        self.feeds = feeds

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)
