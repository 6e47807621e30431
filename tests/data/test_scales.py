"""Numbers of which next to nothing is left once they are float32 and standardised are told of."""

import numpy as np
import polars
import pytest

from mmedge.data.checks.cells import number_faults
from mmedge.data.manifest.source import ROW, SPLIT
from mmedge.spec import TabularSpec

SPEC = TabularSpec(kind="tabular", columns=("t",))
SOUND = np.random.default_rng(0).normal(0, 1, 60)


def told(numbers, splits="train"):
    table = polars.DataFrame({"t": [None if np.isnan(x) else repr(float(x)) for x in numbers], "_row": range(1, 61)})
    table = table.rename({"_row": ROW}).with_columns(polars.lit(splits).alias(SPLIT))
    return number_faults(table, SPEC, "m.csv")


@pytest.mark.parametrize(
    "numbers", [SOUND, 1e-30 * SOUND, 1000 + SOUND, np.exp(3 * SOUND), np.round(SOUND), 1e30 * SOUND]
)
def test_ordinary_numbers_are_no_fault(numbers):
    assert told(numbers) == []


def test_numbers_that_float32_does_not_tell_apart_are_told():
    (fault,) = told(1.7e9 + SOUND)
    assert (fault.severity, fault.kind, fault.column) == ("warning", "digits", "t") and "steps of 1.3e+02" in fault.what


def test_a_number_far_beyond_the_others_is_told_with_its_row():
    numbers = SOUND.copy()
    numbers[7] = 1e30
    (fault,) = told(numbers)
    assert (fault.kind, fault.row) == ("outlier", 8) and "the cell 1e+30" in fault.what
    assert "outlier" not in [each.kind for each in told(numbers, splits="test")]  # the statistics are those of training
