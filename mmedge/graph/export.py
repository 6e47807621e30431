"""From a torch module to an ONNX graph with a dynamic batch, and the proof that both compute the same."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmedge.backends import onnxruntime_cpu
from mmedge.backends.writing import Writing
from mmedge.contract import Contract
from mmedge.errors import MmedgeError
from mmedge.graph import written
from mmedge.graph.bisect import relative
from mmedge.graph.simpler import simplify
from mmedge.graph.trace import example, outputs_of

OPSET = 20


class _Positional(nn.Module):
    """The exporter wants positional inputs and a tuple out; the contract has keywords and a dict."""

    def __init__(self, module: nn.Module, names: list[str], outputs: list[str]) -> None:
        super().__init__()
        self.module, self.names, self.outputs = module, names, outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = self.module(**dict(zip(self.names, tensors)))
        return tuple(given[name] for name in self.outputs)


def export(module: nn.Module, contract: Contract, path: Path, opset: int | None = None) -> None:
    """Write ``module`` as ONNX: named inputs, dynamic batch, checked, without the exporter's stack traces.

    It has all ``outputs_of`` the module, under their names, the answer first. Raises MmedgeError where the module
    cannot be exported, with the exporter's reason.
    """
    import onnx

    opset = opset or OPSET
    if contract.written:
        (head,) = contract.written  # the recipe has seen to it that there is no other
        model = _in_parts(module, contract, head, opset)
    else:
        model = strip(_exported(module, contract, opset))
        simplify(model)
    _check_batch(model)
    _check_lengths(model, contract)
    onnx.save(model, path)
    del model
    try:
        onnx.checker.check_model(str(path), full_check=True)  # a file's: of a model in memory it makes two copies more
    except Exception:
        path.unlink()
        raise


def first_layer_that_differs(
    module: nn.Module, contract: Contract, inputs: Mapping[str, np.ndarray], tolerance: float
) -> str | None:
    """The first submodule of which the exported graph computes another output, in the order in which they run; None where
    none does. ``inputs``: {modality and present: array}; ``tolerance``: over the layer's largest output."""
    import onnx

    if contract.written:
        return None  # its layers run again and again
    model = _exported(module, contract)
    last: dict[str, str] = {}  # by submodule, the last tensor that the graph computes for it
    for node in model.graph.node:
        scopes = {prop.key: prop.value for prop in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "[]")
        for scope in ast.literal_eval(scopes)[:-1]:
            last[scope.removeprefix("module.")] = node.output[0]
    expected: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        return lambda _module, _inputs, output: (
            expected.update({name: output.detach().numpy()}) if isinstance(output, Tensor) else None
        )

    hooks = [child.register_forward_hook(keep(name)) for name, child in module.named_modules() if name in last]
    try:
        with torch.no_grad():
            module(**{name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in inputs.items()})
    finally:
        for hook in hooks:
            hook.remove()
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(last[name] for name in expected))
    actual = onnxruntime_cpu.session(model.SerializeToString(), optimize=False)(inputs)
    for name, wanted in expected.items():
        given = actual[last[name]]
        # Of another shape: what the exporter folded the layer's own output into, which is not to be compared.
        if given.shape == wanted.shape and not (difference := relative(wanted, given)) <= tolerance:
            return f"first layer that differs: {name} ({type(module.get_submodule(name)).__name__}), by {difference:.2g} of its largest output"
    return None


def _exported(module: nn.Module, contract: Contract, opset: int = OPSET) -> Any:
    """The graph of a module that takes a contract's inputs; of one that writes, for its ``outputs``: those of its beginning."""
    # A batch of two: at one, the exporter would take the batch axis for a constant.
    traced = example(contract, batch=2)
    inputs = {name: traced[name] for name in (*contract.modalities, "present")}
    lengths = {name: spec for name, spec in contract.modalities.items() if spec.shortest is not None}
    axes = {name: {len(s.shape): _dim(f"{name}_length", s.shortest, s.shape[-1])} for name, s in lengths.items()}
    return _program(module, inputs, axes, lambda: outputs_of(module, contract)[0], opset)


def _in_parts(module: nn.Module, contract: Contract, head: str, opset: int) -> Any:
    """Both graphs of a module that writes: ``module.in_parts(head)`` gives (what runs once a text, what runs once a token)."""
    if not hasattr(module, "in_parts"):
        raise MmedgeError(
            "a network that writes texts is exported in two parts, and this one has no 'in_parts'",
            where=type(module).__qualname__,
            todo="use the built-in network (leave out model.factory)",
        )
    beginning, step = module.eval().in_parts(head)
    with torch.no_grad():
        begun = beginning(**example(contract, batch=2))
    starts = f"{head}.start."
    states = {f"{head}.state.{name.removeprefix(starts)}": x for name, x in begun.items() if name.startswith(starts)}
    inputs = {f"{head}.token": torch.zeros(2, dtype=torch.int64), **states}
    first = strip(_exported(beginning, contract, opset))
    second = strip(_program(step, inputs, {}, lambda: list(step(**inputs)), opset))
    for part in (first, second):
        simplify(part)
    how = contract.heads[head].decoding
    assert how is not None
    return written.joined(first, second, Writing(head=head, end=how.end, steps=how.steps, beams=how.beams))


def _dim(name: str, least: Any, most: int) -> Any:
    return torch.export.Dim(name, min=least, max=most)


def _program(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    axes: Mapping[str, Mapping[int, Any]],
    outputs_named: Callable[[], list[str]],
    opset: int,
) -> Any:
    """The graph of a module, traced with ``inputs`` whose first axis is the batch; ``axes``: further dynamic ones."""
    names, module, batch = list(inputs), module.eval(), _dim("batch", 1, 65536)
    dynamic = [{0: batch, **axes.get(name, {})} for name in names]
    try:
        outputs = outputs_named()
        with _quiet():
            program = torch.onnx.export(
                _Positional(module, names, outputs).eval(),
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes=(tuple(dynamic),),
                input_names=names,
                output_names=outputs,
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:  # the exporter's failures share no base class
        raise _cannot(error, module) from error
    assert program is not None
    return program.model_proto


def _cannot(error: Exception, module: nn.Module) -> MmedgeError:
    """What stands in the way of the export: the first cause's own words, and the submodule and line that it comes from."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    message = str(cause).strip().split("\n\n", 1)[0]
    lines = [line.strip() for line in message.splitlines() if line.strip() and not line.startswith("=")]
    names = {id(child): name for name, child in module.named_modules()}
    where, packed, torchs = None, False, str(Path(torch.__file__).parent)
    for frame, line in traceback.walk_tb(cause.__traceback__):
        # The method's first parameter, however it is called, is the module.
        owner, file = frame.f_locals.get(next(iter(frame.f_code.co_varnames), "")), frame.f_code.co_filename
        packed |= any(isinstance(value, nn.utils.rnn.PackedSequence) for value in frame.f_locals.values())
        if id(owner) in names and not file.startswith((torchs, __file__)):
            name = names[id(owner)].removeprefix("module").removeprefix(".").removeprefix("inner").removeprefix(".")
            kind = type(owner).__name__
            where = f"{name} ({kind}), {Path(file).name}:{line}" if name else f"{kind}, {Path(file).name}:{line}"
    return MmedgeError(
        f"the model cannot be exported to ONNX: {' '.join(lines) or type(cause).__name__}",
        where=where,
        todo=_way_out(str(cause), packed=packed),
    )


def _way_out(reason: str, *, packed: bool) -> str:
    """What to do about an export that failed, by the exporter's words; ``packed``: among packed sequences."""
    if packed:
        return (
            "leave out nn.utils.rnn.pack_padded_sequence: feed the padded sequence, and take the last step by its index"
        )
    if "data-dependent" in reason or "DataDependent" in reason:
        return "avoid Python control flow and sizes that depend on tensor values, as in if x.sum() > 0, int(x), x[mask]"
    return "put other operations of torch in its place; --debug shows the exporter's whole report"


def strip(model: Any) -> Any:
    """Remove stack traces and inferred shapes: half of a small file, and nothing that a runtime reads."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]:
        del value.metadata_props[:]
    del model.graph.value_info[:]
    return model


def _check_batch(model: Any) -> None:
    frozen = [value.name for value in model.graph.input if not value.type.tensor_type.shape.dim[0].dim_param]
    if frozen:
        raise MmedgeError(
            f"the export froze the batch size of {', '.join(frozen)}",
            todo="look for len(x) (x.shape[0] is right), .squeeze(), .view(1, ...) or a Python loop over the batch in the model",
        )


def _check_lengths(model: Any, contract: Contract) -> None:
    for value in model.graph.input:
        spec = contract.modalities.get(value.name)
        if spec is not None and spec.shortest is not None and not value.type.tensor_type.shape.dim[-1].dim_param:
            raise MmedgeError(
                f"the export froze the length of {value.name} to {spec.shape[-1]}",
                where=f"data.modalities.{value.name}.min_length",
                todo="take it from x.shape in the model, or leave out min_length",
            )


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter prints and warns about its own internals; faults still come as exceptions."""
    level = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
