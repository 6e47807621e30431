"""Post-training quantization: of graphs with attention by what is known of it, of others by NNCF, which this file alone imports."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import MmedgeError, first_line
from mmedge.graph import apart, biased, dynamic, placement, precision, structure
from mmedge.graph.placement import Form
from mmedge.graph.prepared import Prepared, prepared
from mmedge.graph.wiring import Wiring
from mmedge.leftovers import scratch
from mmedge.recipe import Candidate

# Operators whose output's shape depends on values: none of them is quantized, and ranges behind them may be of nothing.
DATA_DEPENDENT = ("NonZero", "Unique", "Compress", "NonMaxSuppression", "Loop", "If", "Scan")


# What a variant is in a graph with attention, where outliers are always smoothed, weights rounded together and biases corrected.
_FORMS = {
    "int8": Form(),
    "int8-extremes": Form("extremes"),
    "int8-percentile": Form("percentile"),
    "int8-narrow": Form(most=63),
    "int8-hybrid": Form(),
    "int8-apart": Form(gates=True),
}
# Why a graph has none of a form.
_LACKING = {
    "int8-hybrid": "it quantizes convolutions beside attention, and this graph does not have both: see int8-dynamic",
    "int8-apart": "it is of convolutions in front of activations as SiLU or hard-swish, and this graph has none",
}


def others(graph: Path) -> list[Candidate]:
    """The forms that are tried with ``int8``, of a graph that has them.

    ``int8-hybrid``: attention, and convolutions that bear 8 bits beside it. ``int8-apart``: convolutions in front of activations
    that only some runtimes fold into them (SiLU, hard-swish): others compute these in float where the first codes are behind.
    """
    import onnx

    model = onnx.load(graph)
    wiring = Wiring(model)
    convolutions = [node for node in structure.weighted(wiring) if node.op_type == "Conv"]
    hybrid: list[Candidate] = ["int8-hybrid"] if convolutions and structure.has_attention(model) else []
    apart: list[Candidate] = ["int8-apart"] if structure.gated(wiring, convolutions) else []
    return hybrid + apart


def int8(graph: Path | Prepared, target: Path, inputs: Sequence[dict[str, np.ndarray]], variant: str = "int8") -> None:
    """Write the INT8 form of an FP32 graph as plain Q/DQ, calibrated on ``inputs``: {input: [1, *shape]} each.

    ``graph``: one that is ``prepared`` need not be so again for each ``variant``, a candidate's name, see
    ``recipe.Quantize``. Raises MmedgeError where the graph has no such form.
    """
    import onnx

    with scratch() as folder:
        source = graph if isinstance(graph, Prepared) else prepared(graph, folder / "prepared.onnx", inputs)
        if variant in _LACKING and variant not in others(source.graph):
            raise MmedgeError(_LACKING[variant])
        if not source.attention and variant != "int8-apart":
            _by_nncf(source.graph, target, inputs, variant)
        elif variant not in _FORMS:
            raise MmedgeError(f"in a graph with attention {variant} is what int8 is")
        else:
            _by_placement(source, target, inputs, variant)
    model = onnx.load(target)
    if biased.make_uneven(model) + apart.hold_apart(model):
        onnx.save(model, target)


def _by_placement(source: Prepared, target: Path, inputs: Sequence[dict[str, np.ndarray]], variant: str) -> None:
    form = replace(_FORMS[variant], powers=source.powers)
    with scratch() as folder:
        if variant == "int8-hybrid":
            convolved = folder / "convolutions.onnx"
            placement.int8(source.graph, convolved, inputs, form, kinds=("Conv",))
            dynamic.int8(convolved, target, source.powers)
        else:
            placement.int8(source.graph, target, inputs, form)


def _by_nncf(graph: Path, target: Path, inputs: Sequence[dict[str, np.ndarray]], variant: str) -> None:
    with _nncf() as nncf:
        import onnx

        model = onnx.load(graph)
        try:
            quantized = nncf.quantize(
                model, nncf.Dataset(list(inputs)), subset_size=len(inputs), **_arguments(nncf, variant)
            )
        except Exception as error:  # NNCF's errors share no base class with those of ONNX and ONNX Runtime
            data_dependent = sorted({n.op_type for n in model.graph.node if n.op_type in DATA_DEPENDENT})
            reason = first_line(error)
            if isinstance(error, (KeyError, AttributeError, AssertionError)):  # they say a name and not what happened
                reason = f"{type(error).__name__} in NNCF: {reason}"
            shapes = f"; its {', '.join(data_dependent)} give shapes that depend on the data" if data_dependent else ""
            raise MmedgeError(
                f"NNCF cannot quantize this graph ({variant}): {reason}{shapes}",
                todo="leave the int8 candidates out (quantize.candidates, --candidates), or do not require them",
            ) from error
    onnx.save(quantized, target)
    precision.to_one_type(target)


def _arguments(nncf: Any, variant: str) -> dict[str, Any]:
    """Arguments of ``nncf.quantize``; activations have one symmetric scale a tensor, as ONNX Runtime and TensorRT take them.

    Left to itself NNCF gives the input of a depthwise convolution a scale a channel, and both run it in float then.
    """
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
        OverflowFix,
        QuantizationParameters,
    )
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet as Ranges

    arguments: dict[str, Any] = {"preset": nncf.QuantizationPreset.PERFORMANCE}
    more: dict[str, Any] = {}
    match variant:
        case "int8":
            pass
        case "int8-extremes":
            more["activations_range_estimator_params"] = Ranges.MINMAX
        case "int8-percentile":
            more["activations_range_estimator_params"] = Ranges.MEAN_QUANTILE
        case "int8-histogram":
            more["activations_range_estimator_params"] = Ranges.HISTOGRAM
        case "int8-narrow":
            more["overflow_fix"] = OverflowFix.ENABLE
        case "int8-bias":
            arguments["fast_bias_correction"] = False
        case "int8-smooth":  # Xiao et al. 2023, "SmoothQuant"
            more["smooth_quant_alphas"] = AdvancedSmoothQuantParameters(matmul=0.5)
            arguments["model_type"] = nncf.ModelType.TRANSFORMER
        case _:
            raise ValueError(f"no variant {variant!r}")
    one_scale = QuantizationParameters(per_channel=False)
    arguments["advanced_parameters"] = AdvancedQuantizationParameters(activations_quantization_params=one_scale, **more)
    return arguments


@contextlib.contextmanager
def _nncf() -> Iterator[Any]:
    """NNCF without telemetry, and without what it draws on stdout, which belongs to --json."""
    os.environ["NNCF_CI"] = "1"  # read at import
    import nncf

    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        yield nncf
