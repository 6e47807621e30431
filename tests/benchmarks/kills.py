"""A run that is killed at random moments, sixty times, ends in the figures of one that was left alone, and leaves nothing behind.

``python -m tests.benchmarks kills`` (``make kills``): SIGKILL to the whole process group of ``mmedge run`` on the suite's tiny
recipe, then the same command again, until it ends; then afresh until there were as many kills. Some ten minutes.
"""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.conftest import child_environment, tiny, write_media, write_recipe

KILLS, SEED = int(os.environ.get("MMEDGE_KILLS", "60")), 0
# What is measured in time differs from run to run, and may choose another candidate.
_STAGES = ("teacher", "distill", "prune")


def main() -> None:
    """Prints where it was killed; ends in an error where a figure differs or anything is left."""
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        write_media(folder)
        values = tiny(folder / "manifest.csv")
        values["export"] = {"targets": {"onnxruntime-cpu": {}}}
        recipe = write_recipe(values, folder / "recipe.json")
        began = time.monotonic()
        start(recipe, folder / "alone", folder).wait()
        whole_s = time.monotonic() - began
        expected = figures(folder / "alone")
        print(f"left alone: {whole_s:.0f} s", flush=True)
        chance, done, runs = random.Random(SEED), 0, 0
        places: collections.Counter[str] = collections.Counter()
        while done < KILLS:
            out = folder / f"killed-{runs}"
            while True:
                process = start(recipe, out, folder)
                # What was done stays done, so that it gets on; half of them soon after the start.
                most_s = whole_s / 2 if chance.random() < 0.5 else whole_s / 8
                try:
                    code = process.wait(chance.uniform(0, most_s) if done < KILLS else None)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    places[reached(out)] += 1
                    done += 1
                    print(f"kill {done}: {reached(out)} was written", flush=True)
                    continue
                if code != 0:
                    sys.exit(f"the run that goes on after {done} kills ends with exit code {code}")
                break
            runs += 1
            if (found := figures(out)) != expected:
                sys.exit(f"other figures after {done} kills:\n{json.dumps(found)}\n{json.dumps(expected)}")
            if left := [str(path) for path in folder.rglob("*") if "mmedge-" in path.name or ".part." in path.name]:
                sys.exit(f"left behind after {done} kills: {left}")
            print(f"{done} kills, {runs} runs ended: equal figures, nothing left behind", flush=True)
        print("killed while these were done: " + ", ".join(f"{what} {n}" for what, n in sorted(places.items())))


def start(recipe: Path, out: Path, folder: Path) -> subprocess.Popen[bytes]:
    """``mmedge run`` in a process group of its own, its temporary files in ``folder``."""
    command = [sys.executable, "-m", "mmedge", "run", str(recipe), "--out", str(out)]
    env = {**child_environment(), "TMPDIR": str(folder / "tmp")}
    return subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, start_new_session=True)


def figures(out: Path) -> dict[str, Any]:
    """What must be equal: of each trained stage its weights' hash and its quality on both splits, and the candidates' quality."""
    report = json.loads((out / "report.json").read_text())
    stages = {stage["stage"]: stage for stage in report["stages"]}
    found: dict[str, Any] = {}
    for name in _STAGES:
        files = json.loads((out / name / "manifest.json").read_text())["files"]
        figure = {key: stages[name].get(key) for key in ("quality", "quality_validation", "subsets", "params", "macs")}
        found[name] = {"weights": files["weights.safetensors"], **figure}
    rows = stages["quantize"]["candidates"]
    found["quantize"] = {row["precision"]: row.get("quality_validation") for row in rows}
    return found


def reached(out: Path) -> str:
    """The last stage that was written when it was killed."""
    stages = ("teacher", "distill", "prune", "quantize", "export-onnxruntime-cpu", "bundle")
    written = [stage for stage in stages if (out / stage / "manifest.json").is_file()]
    return written[-1] if written else "data" if (out / "data").is_dir() else "nothing"


if __name__ == "__main__":
    main()
