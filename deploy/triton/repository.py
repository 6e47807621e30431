"""A Triton model repository from a bundle: python repository.py BUNDLE OUT."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from mmedge import bundle as bundles
from mmedge.artifact import contract_of
from mmedge.backends.onnxruntime_cpu import native_session
from mmedge.contract import Contract
from mmedge.errors import MmedgeError, UsageError

_MOST = 8
_TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}
_OUTPUTS = {
    "tensor(float)": "TYPE_FP32", "tensor(float16)": "TYPE_FP16", "tensor(double)": "TYPE_FP64",
    "tensor(int64)": "TYPE_INT64", "tensor(int32)": "TYPE_INT32", "tensor(int8)": "TYPE_INT8",
    "tensor(uint8)": "TYPE_UINT8", "tensor(bool)": "TYPE_BOOL",
}  # fmt: skip


def write(bundle: Path, out: Path) -> Path:
    """Write OUT/<name>/config.pbtxt and OUT/<name>/1/model.onnx; returns the model's folder."""
    read = bundles.read(bundle)
    contract = contract_of(read.artifact)
    # The bundle's name is whoever's: as a folder it must not lead out of the repository.
    name = re.sub(r"[^\w-]+", "-", str(read.artifact.meta.get("name", ""))).strip("-") or "model"
    model = out / name
    if model.exists():
        raise UsageError(
            "the model is in the repository already", where=str(model), todo="remove it, or write elsewhere"
        )
    (model / "1").mkdir(parents=True)
    shutil.copyfile(read.folder / "model.onnx", model / "1/model.onnx")
    others = {
        output.name: (_OUTPUTS[output.type], tuple(size if isinstance(size, int) else -1 for size in output.shape[1:]))
        for output in native_session(read.folder / "model.onnx").get_outputs()
        if output.name not in contract.heads
    }
    (model / "config.pbtxt").write_text(config(name, contract, others), encoding="utf-8")
    return model


def config(name: str, contract: Contract, others: Mapping[str, tuple[str, tuple[int, ...]]] | None = None) -> str:
    """The text of config.pbtxt. Dims are without the batch axis, which Triton adds. ``others``: outputs beside the heads."""
    inputs = [
        (name, _TYPES[spec.dtype], spec.shape if spec.shortest is None else (*spec.shape[:-1], -1))
        for name, spec in contract.modalities.items()
    ]
    inputs.append(("present", "TYPE_BOOL", (len(contract.modalities),)))
    lines = [f'name: "{name}"', 'backend: "onnxruntime"', f"max_batch_size: {_MOST}"]
    lines += [_tensor("input", *one) for one in inputs]
    lines += [_tensor("output", head, "TYPE_FP32", (contract.width(head),)) for head in contract.heads]
    lines += [_tensor("output", name, *each) for name, each in (others or {}).items()]
    lines.append(
        f"dynamic_batching {{ preferred_batch_size: [ {_MOST // 2}, {_MOST} ] max_queue_delay_microseconds: 1000 }}"
    )
    lines.append("instance_group [ { count: 1 kind: KIND_AUTO } ]")
    return "\n".join(lines) + "\n"


def _tensor(kind: str, name: str, dtype: str, shape: tuple[int, ...]) -> str:
    # Triton wants at least one size: one number a sample is [1] to its clients.
    sizes = ", ".join(map(str, shape or (1,)))
    reshaped = "" if shape else " reshape { shape: [ ] }"
    return f'{kind} [ {{ name: "{name}" data_type: {dtype} dims: [ {sizes} ]{reshaped} }} ]'


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        print(write(Path(sys.argv[1]), Path(sys.argv[2])))
    except MmedgeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
