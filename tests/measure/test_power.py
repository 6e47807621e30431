"""Energy of graphs beside one another: by the machine's counter where there is one, else a sentence that says so."""

import threading
import time

import numpy as np
import pytest

from mmedge.measure import power
from mmedge.profiling import energy
from mmedge.progress import Silent
from tests import small


@pytest.fixture
def graphs(tmp_path):
    """Two graphs of the same inputs, the second with five times the channels."""
    small.write_graph(tmp_path / "light.onnx")
    small.write_graph(tmp_path / "heavy.onnx", channels=80)
    return {name: tmp_path / f"{name}.onnx" for name in ("light", "heavy")}


CALL = {
    "image": np.zeros((1, 1, 8, 8), np.float32),
    "vitals": np.zeros((1, 3), np.float32),
    "present": np.ones((1, 2), bool),
}


def test_the_order_is_that_of_the_counter(graphs, tmp_path, monkeypatch):
    """No test machine offers RAPL: its files stand in, counting the processor time of this process."""
    counter = tmp_path / "intel-rapl:0"
    counter.mkdir()
    (counter / "max_energy_range_uj").write_text(str(1 << 40))
    done, rapl = threading.Event(), energy._rapl
    began = time.process_time()

    def count() -> None:
        while not done.is_set():
            beside = counter / "next"
            beside.write_text(str(int((time.process_time() - began) * 30e6)))
            beside.replace(counter / "energy_uj")
            time.sleep(0.005)

    (counter / "energy_uj").write_text("0")
    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    monkeypatch.setattr(energy, "_rapl", lambda: rapl(counter))
    monkeypatch.setattr(energy, "_jetson", lambda: "Jetson: none")
    monkeypatch.setattr(power, "_SECONDS", 0.1)
    try:
        found = power.of_graphs(graphs, CALL, 1)
    finally:
        done.set()
        thread.join()
    assert found["heavy"] > 1.5 * found["light"] > 0


def test_where_nothing_tells_the_candidates_are_judged_by_time_and_it_is_said(graphs, tmp_path, monkeypatch):
    from mmedge.pipeline.standalone import FileOptions, quantize_file
    from mmedge.recipe import Quantize

    monkeypatch.setattr(energy, "meter", lambda gpu=False: "RAPL: the system offers no counter")
    random = np.random.default_rng(0)
    calls = {
        "image": random.normal(size=(24, 1, 8, 8)).astype(np.float32),
        "vitals": random.normal(size=(24, 3)).astype(np.float32),
    }
    options = FileOptions(Quantize(candidates=("fp32", "fp16")), prefer="energy", named=True)
    report = quantize_file(graphs["light"], calls, tmp_path / "out", options, Silent())
    (note,) = (note for note in report.notes if "time stands for it" in note)
    assert note.startswith("RAPL: the system offers no counter: energy is preferred")
