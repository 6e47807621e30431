"""Post-training quantization by NNCF: the one file that imports it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from pathlib import Path

import numpy as np


def int8(graph: Path, target: Path, inputs: list[dict[str, np.ndarray]]) -> None:
    """Write the INT8 form of an FP32 graph, as plain Q/DQ, calibrated on ``inputs``: {input: [1, *shape]} each."""
    os.environ["NNCF_CI"] = "1"  # no telemetry; it is read at import
    import nncf
    import onnx

    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # nncf draws its own bars on stdout, which belongs to --json
        quantized = nncf.quantize(
            onnx.load(graph), nncf.Dataset(inputs), subset_size=len(inputs), preset=nncf.QuantizationPreset.PERFORMANCE
        )
    onnx.save(quantized, target)
