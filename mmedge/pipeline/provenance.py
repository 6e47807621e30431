"""What a run was made by, for its report."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from mmedge.artifact import code_hash
from mmedge.machine import version
from mmedge.report.provenance import ProvenanceRecord

# What may change a figure, where it is installed.
_PACKAGES = (
    "numpy", "torch", "onnx", "onnxruntime", "onnxscript", "nncf", "openvino", "tensorrt-rtx", "tensorrt", "torch-pruning",
    "accelerate", "transformers", "tokenizers", "timm", "scikit-learn", "scipy", "polars", "pillow", "soundfile", "soxr",
    "kaldi-native-fbank",
)  # fmt: skip


def provenance(command: Sequence[str]) -> ProvenanceRecord:
    """Of this process and this moment. ``command``: the arguments that were typed, none where Python called."""
    installed = {name: version(name) for name in _PACKAGES}
    record = ProvenanceRecord(
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        code_sha256=code_hash(""),
        versions={name: found for name, found in installed.items() if found},
    )
    return ProvenanceRecord(**record.record(), command=shlex.join(map(without_folder, command))) if command else record


def without_folder(argument: str) -> str:
    """An argument as a report may show it: of an absolute path the name alone, since folders are personal."""
    key, sign, value = argument.rpartition("=")
    return f"{key}{sign}{Path(value).name}" if os.path.isabs(value) or value.startswith("~") else argument
