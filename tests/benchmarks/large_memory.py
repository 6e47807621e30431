"""Memory of a large teacher's chain: BERT-base and a ViT of 12 layers, together 150 M parameters, from training to the bundle.

``python -m tests.benchmarks large_memory``: a peak a stage, of all processes of ``mmedge run`` together (the sum of what each has
resident, so that what they share counts twice), looked at every 50 ms. Random weights, few samples: memory hangs on neither. The
encoders stay frozen, then, in a second run, they are trained by LoRA.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.models.pretrained import folders

_WIDE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_SLIM = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048}
_SIDE, _TOKENS, _ROWS = 224, 64, 96
_LOOK_S = 0.05


def main() -> None:
    """Prints a row a stage."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folders.bert(folder / "bert", 30_522, 512, _WIDE)
        folders.vit(folder / "vit", _SIDE, 16, _SLIM)
        folders.table(folder, _ROWS)
        for title, train in (("frozen", {}), ("LoRA", {"lora": {"rank": 8}})):
            print(f"\n| {title} | peak, MB |\n|---|---|")
            for stage, peak in peaks(recipe_of(folder, train), folder / title).items():
                print(f"| {stage} | {peak / 1e6:,.0f} |", flush=True)


def recipe_of(folder: Path, train: dict) -> Path:
    """The recipe of a run, written; the student is that of the tests, but for longer texts."""
    values = folders.values(folder)
    values["data"]["modalities"]["name"]["length"] = _TOKENS
    values["teacher"]["train"] = {"epochs": 2, "batch_size": 16, **train}
    values["quantize"] = {"candidates": ["fp32", "int8-dynamic"], "qat": "never"}
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(values))
    return file


def peaks(recipe: Path, out: Path) -> dict[str, int]:
    """{stage: bytes}: the most that was resident while each stage of ``mmedge run`` was at work."""
    command = [sys.executable, "-m", "mmedge", "run", str(recipe), "--out", str(out)]
    found: dict[str, int] = {}
    with open(os.devnull, "w") as nowhere, subprocess.Popen(command, stdout=nowhere, stderr=nowhere) as run:
        root = psutil.Process(run.pid)
        while run.poll() is None:
            stage = next((s for s in ("teacher", "distill", "quantize", "bundle") if not (out / s).is_dir()), "report")
            found[stage] = max(found.get(stage, 0), resident(root))
            time.sleep(_LOOK_S)
    if run.returncode:
        sys.exit(f"{' '.join(command)} ended with {run.returncode}")
    return found


def resident(root: psutil.Process) -> int:
    """Bytes of a process and all below it; of those that end meanwhile nothing."""
    total = 0
    for process in [root, *_children(root)]:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def _children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.Error:
        return []


if __name__ == "__main__":
    main()
