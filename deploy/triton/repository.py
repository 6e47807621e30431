"""A Triton model repository from a bundle: python repository.py BUNDLE OUT."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from mmedge.artifact import contract_of
from mmedge.errors import MmedgeError, UsageError
from mmedge.runtime import bundle as bundles
from mmedge.spec import Contract

_MOST = 8
_TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}


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
    (model / "config.pbtxt").write_text(config(name, contract), encoding="utf-8")
    return model


def config(name: str, contract: Contract) -> str:
    """The text of config.pbtxt. Dims are without the batch axis, which Triton adds."""
    inputs = [
        (name, _TYPES[spec.dtype], spec.shape if spec.shortest is None else (*spec.shape[:-1], -1))
        for name, spec in contract.modalities.items()
    ]
    inputs.append(("present", "TYPE_BOOL", (len(contract.modalities),)))
    lines = [f'name: "{name}"', 'backend: "onnxruntime"', f"max_batch_size: {_MOST}"]
    lines += [_tensor("input", *one) for one in inputs]
    lines.append(_tensor("output", contract.output, "TYPE_FP32", (contract.outputs,)))
    lines.append(
        f"dynamic_batching {{ preferred_batch_size: [ {_MOST // 2}, {_MOST} ] max_queue_delay_microseconds: 1000 }}"
    )
    lines.append("instance_group [ { count: 1 kind: KIND_AUTO } ]")
    return "\n".join(lines) + "\n"


def _tensor(kind: str, name: str, dtype: str, shape: tuple[int, ...]) -> str:
    return f'{kind} [ {{ name: "{name}" data_type: {dtype} dims: [ {", ".join(map(str, shape))} ] }} ]'


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        print(write(Path(sys.argv[1]), Path(sys.argv[2])))
    except MmedgeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
