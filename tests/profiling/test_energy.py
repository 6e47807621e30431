"""Energy: which counter, and what it counts."""

import time

import pytest

from mmedge.profiling import energy


def test_energy_says_which_sensor_or_why_there_is_none(tmp_path):
    figure = energy.measure(lambda: None, seconds=0.02, samples=1)
    assert set(figure) in ({"not_available"}, {"source", "mj_per_inference", "mean_watts"})
    assert "no counter" in energy._rapl(tmp_path / "none")
    assert "no INA3221" in energy._jetson(tmp_path / "none")


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
    meter = energy._jetson(tmp_path)
    start = time.perf_counter()
    time.sleep(0.2)
    used, elapsed = meter.joules(), time.perf_counter() - start
    meter.close()
    assert 0 < used <= 10 * elapsed * 1.1  # ten watts
