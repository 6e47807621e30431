"""A manifest of a million rows is validated without opening its media, in less than 2 GB."""

import pytest

from tests.benchmarks.data_speed import million_rows


@pytest.mark.slow
def test_a_million_rows_are_validated_in_less_than_two_gigabytes(tmp_path):
    found = million_rows(tmp_path / "million")
    assert found["rows"] == 1_000_000 and found["errors"] == 0, found["faults"]
    assert found["peak_mib"] < 2000e6 / 2**20
