"""Several numbers a sample: cells of columns or lists become targets, each value is judged, and what is missing is left out."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import r2_score

from mmedge.tasks import regression
from mmedge.tasks.head import Target

TARGET = Target(task="regression", column=("a", "b"))
CELLS = ["[1, 10]", "[2, 40]", None, '["3.5", null]', "[4, 20]"]


def kinds(cells, target=TARGET):
    return [(fault.kind, fault.row) for fault in regression.faults({"train": cells}, target)]


def test_cells_of_several_columns_and_lists_are_targets_with_nan_for_what_is_missing():
    head = regression.head(CELLS, TARGET)
    assert head.values == ("a", "b") and regression.width(head) == 2
    assert head.mean == pytest.approx((2.625, 70 / 3)) and not kinds(CELLS)
    found = regression.targets(CELLS, head, TARGET)
    np.testing.assert_array_equal(found, [[1, 10], [2, 40], [np.nan] * 2, [3.5, np.nan], [4, 20]])
    assert regression.known(found).tolist() == [True, True, False, True, True]
    listed = regression.head(CELLS, Target(task="regression", column="all"))
    assert listed.values == ("0", "1") and listed.mean == head.mean
    assert regression.head(["1", "3"], Target(task="regression", column="y")).mean == 2.0


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["[1, 2]", "[1, 2, 3]", "[3, 4]"], ("target", 1)),
        (["[1, 2]", '[1, "x"]', "[3, 4]"], ("target", 1)),
        (["[1, 2]", "7", "[3, 4]"], ("target", 1)),
        (["[1, 2]", "[3, Infinity]"], ("target", 1)),
        (["[1, 2]", "[1, 4]"], ("constant", None)),
        (["[1, null]", "[2, null]"], ("target", None)),
    ],
)
def test_what_is_no_list_of_so_many_numbers_is_told_with_its_row(cells, kind):
    assert kinds(cells) == [kind]


def test_figures_are_those_of_the_libraries_value_by_value_and_on_average():
    random = np.random.default_rng(0)
    targets = random.normal(size=(50, 2)).astype(np.float32)
    output = (targets + random.normal(size=(50, 2)) * [0.5, 2]).astype(np.float32)
    head = regression.head([str(row.tolist()) for row in targets], TARGET)
    assert regression.score(output, targets, head) == pytest.approx(r2_score(targets, output), abs=1e-5)
    found = regression.others(output, targets, head)
    for figure, library in (("pearson", pearsonr), ("spearman", spearmanr)):
        each = [library(output[:, k], targets[:, k]).statistic for k in range(2)]
        assert found[figure] == pytest.approx(np.mean(each), abs=1e-5)
    assert found["r2.b"] == pytest.approx(r2_score(targets[:, 1], output[:, 1]), abs=1e-5)
    assert found["mae"] == pytest.approx((found["mae.a"] + found["mae.b"]) / 2)
    targets[::2, 1] = np.nan  # half of the one value is not known
    assert regression.others(output, targets, head)["r2.b"] == pytest.approx(r2_score(targets[1::2, 1], output[1::2, 1]), abs=1e-5)  # fmt: skip
    assert regression.others(output, targets, head)["r2.a"] == pytest.approx(found["r2.a"])
    assert np.isfinite(regression.errors(output, targets, head)).all()
    np.testing.assert_allclose(regression.majority(targets, head, 1)[0], np.nanmean(targets, axis=0), rtol=1e-5)
    assert regression.predictions(output[:1], head)[0].record() == {"values": dict(zip("ab", output[0].tolist()))}
