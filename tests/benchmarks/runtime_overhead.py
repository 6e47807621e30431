"""What the runtime adds to a bare session, what preprocessing costs, and what an engine of one modality saves."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mmedge import artifact, runtime
from mmedge.runtime.profile import raw_values
from mmedge.runtime.targets import onnxruntime_cpu
from mmedge.runtime.timing import ratio_interval, spans


def main() -> None:
    """Medians and ratios with their intervals, interleaved. A bundle may be named by MMEDGE_BUNDLE; else the tests' small one."""
    import os

    from tests.runtime.small import write_bundle

    with tempfile.TemporaryDirectory() as folder:
        path = Path(os.environ.get("MMEDGE_BUNDLE") or write_bundle(Path(folder) / "bundle"))
        engine = runtime.load(path)
        native = onnxruntime_cpu.native_session(path / "model.onnx")
        shapes = {name: spec.shape for name, spec in engine.contract.modalities.items()}
        random = np.random.default_rng(0)
        one = {name: random.standard_normal((1, *shape)).astype(np.float32) for name, shape in shapes.items()}
        feed = {**one, "present": np.ones((1, len(one)), bool)}
        raw = {name: values[0] for name, values in raw_values(engine.contract, 1).items()}
        calls = {"bare session": lambda: native.run(None, feed), "engine.run": lambda: engine.run(feed)}
        calls["engine.predict, raw"] = lambda: engine.predict(**raw)
        for names in artifact.read(path).meta["targets"]["onnxruntime-cpu"].get("subsets", {}):
            given = {name: one[name] for name in names.split("+")}
            calls[f"engine.run, {names} alone"] = lambda given=given: engine.run(given)
        taken = spans(calls, runs=3000, warmup=200)
        for name, times in taken.items():
            low, high = ratio_interval(times, taken["bare session"])
            print(
                f"{name:28} {np.median(times) / 1000:9.1f} us   {np.median(times) / np.median(taken['bare session']):.3f} x [{low:.3f}, {high:.3f}]"
            )
    for statement in ("pass", "import mmedge.runtime"):
        best = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            best.append(time.perf_counter() - start)
        print(f"python -c {statement!r:28} {min(best):.3f} s")
