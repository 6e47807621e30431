"""Energy: which counter, and what it counts."""

import sys
import time
from types import SimpleNamespace

import pytest

from mmedge.machine import nvidia_gpus
from mmedge.profiling import energy


def test_energy_says_which_sensor_or_why_there_is_none(tmp_path):
    figure = energy.measure(lambda: None, seconds=0.02, samples=1)
    assert figure and (isinstance(figure, str) or figure.mean_watts > 0)
    assert "no counter" in energy._rapl(tmp_path / "none")
    assert "no INA3221" in energy._jetson(tmp_path / "none")


class Driver:
    """NVML as a driver of one GPU answers it; ``lacks``: what this one does not support."""

    class NVMLError(Exception):
        pass

    def __init__(self, lacks=()):
        self.lacks, self.open, self.millijoules = lacks, 0, 0

    def __getattr__(self, name):
        if name in self.lacks:
            raise self.NVMLError("Not Supported")
        return lambda *_: self.answers(name)

    def answers(self, name):
        self.open += {"nvmlInit": 1, "nvmlShutdown": -1}.get(name, 0)
        self.millijoules += 500
        return {
            "nvmlSystemGetDriverVersion": "580.1",
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetName": "NVIDIA Small",
            "nvmlDeviceGetCudaComputeCapability": (8, 7),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=16, used=5),
            "nvmlDeviceGetTotalEnergyConsumption": self.millijoules,
        }.get(name)


def test_a_gpu_is_described_and_metered_as_its_driver_answers(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", driver := Driver())
    (gpu,) = nvidia_gpus()
    assert gpu.record() == {
        "name": "NVIDIA Small", "driver": "580.1", "compute_capability": "8.7", "memory_bytes": 16,
    }  # fmt: skip
    assert energy.gpu_memory_bytes() == 5 and driver.open == 0
    figure = energy.measure(lambda: None, seconds=0.02, samples=1, gpu=True)
    assert figure.source == "NVML, GPU 0" and figure.mean_watts > 0 and driver.open == 0


def test_what_a_driver_does_not_tell_is_absent_and_said(monkeypatch):
    lacks = ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetTotalEnergyConsumption")
    monkeypatch.setitem(sys.modules, "pynvml", Driver(lacks))
    assert "memory_bytes" not in nvidia_gpus()[0].record() and energy.gpu_memory_bytes() is None
    assert "NVML: Not Supported" in energy.measure(lambda: None, seconds=0.02, samples=1, gpu=True)
    monkeypatch.setitem(sys.modules, "pynvml", Driver(("nvmlInit",)))
    assert nvidia_gpus() == []


def test_rapl_counts_across_the_wrap_of_its_counter(tmp_path):
    (tmp_path / "max_energy_range_uj").write_text("1000000\n")
    (tmp_path / "energy_uj").write_text("999000\n")
    meter = energy._rapl(tmp_path)
    before = meter.joules()
    (tmp_path / "energy_uj").write_text("2000\n")
    assert meter.joules() - before == pytest.approx(0.003)


def test_jetson_sums_up_voltage_times_current(tmp_path):
    hwmon = tmp_path / "1-0040/hwmon/hwmon3"
    hwmon.mkdir(parents=True)
    (hwmon / "in1_label").write_text("VDD_IN\n")
    (hwmon / "in1_input").write_text("5000\n")
    (hwmon / "curr1_input").write_text("2000\n")
    start = time.perf_counter()  # before the meter begins, whatever else the machine does between the two
    meter = energy._jetson(tmp_path)
    time.sleep(0.2)
    used, elapsed = meter.joules(), time.perf_counter() - start
    meter.close()
    assert 0 < used <= 10 * elapsed * 1.1  # ten watts
