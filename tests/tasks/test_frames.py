"""Arrays a sample: files and lists become targets, what is wrong with one is told, figures are the libraries'."""

import math

import numpy as np
import pytest
from scipy.fft import dct
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from mmedge.tasks import frames
from mmedge.tasks.head import Target

TARGET = Target(task="frames")
RANDOM = np.random.default_rng(0)


def described(cells, **more):
    target = Target(task="frames", **more)
    head = frames.head(cells, target)
    return head, frames.targets(cells, head, target)


def of_lengths(*lengths, bands=16):
    return [str(RANDOM.normal(size=(length, bands)).tolist()) for length in lengths]


def test_files_and_lists_are_laid_out_flat_with_nan_behind_their_end_and_their_length_last(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6, dtype=np.int16).reshape(3, 2))
    head, found = described([str(tmp_path / "a.npy"), "[[1, 2]]", None])
    assert head.shape == (3, 2) and head.varies and frames.width(head) == 7
    nan = math.nan
    np.testing.assert_array_equal(found, [[0, 1, 2, 3, 4, 5, 3], [1, 2, nan, nan, nan, nan, 1], [nan] * 7])
    assert frames.known(found).tolist() == [True, True, False]
    assert head.mean == pytest.approx((7 / 4, 11 / 4))
    np.save(tmp_path / "a.npy", np.ones((2, 2)))  # another file of the same name is read anew
    assert described([str(tmp_path / "a.npy"), "[[1, 2]]"])[0].shape == (2, 2)
    fixed, flat = described(["[[1, 2], [3, 4]]", "[[0, 2], [3, 1]]"])
    assert not fixed.varies and flat.shape == (2, 4)
    assert described(["[[1, 2]]"], shape=(5, 2))[0].varies


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("gone.npy", "does not exist"),
        ("text.npy", "no .npy file"),
        ("objects.npy", "no .npy file"),
        ("nan.npy", r"NaN or infinity, first at \[1, 0\]"),
        ("empty.npy", "empty array"),
        ("[[1, 2], [3]]", "lists are of different lengths"),
        ("[[1, 2, 3]]", r"has the shape \[1, 3\]"),
        ("[[1, 2], [1, 2], [1, 2]]", "3 frames, and the longest of training"),
    ],
)
def test_what_is_no_such_array_is_told_with_its_row_and_file(tmp_path, cell, words):
    (tmp_path / "text.npy").write_text("1, 2")
    np.save(tmp_path / "objects.npy", np.array([{}, None], object), allow_pickle=True)
    np.save(tmp_path / "nan.npy", [[1, 2], [np.nan, 2]])
    np.save(tmp_path / "empty.npy", np.empty((0, 2)))
    cell = str(tmp_path / cell) if cell.endswith(".npy") else cell
    good = ["[[1, 2], [3, 4]]", "[[1, 2]]"]
    (fault,) = frames.faults({"train": good, "test": [*good, cell]}, TARGET)
    assert (fault.severity, fault.split, fault.row) == ("error", "test", 2)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(fault.what)


def test_shorter_than_a_shape_that_never_varied_is_told_and_one_number_throughout_judges_nothing():
    good = ["[[1, 2], [3, 4]]", "[[1, 2], [5, 6]]"]
    (fault,) = frames.faults({"train": good, "test": [*good, "[[1, 2]]"]}, TARGET)
    assert "declare data.lengths: true" in fault.what
    (fault,) = frames.faults({"train": good, "test": ["[[1, 1], [1, 1]]"] * 2}, TARGET)
    assert fault.kind == "constant"


def test_figures_are_those_of_the_libraries_over_what_is_known():
    cells = of_lengths(5, 9, 7)
    head, targets = described(cells, log_mel=True)
    output = (np.nan_to_num(targets) + RANDOM.normal(size=targets.shape)).astype(np.float32)
    output[:, -1] = [5.4, 7.0, 9.9]
    placed = frames.placed(output, output, targets, head)
    there = ~np.isnan(targets[:, :-1])
    true, guess = targets[:, :-1][there], output[:, :-1][there]
    found = frames.others(placed, targets, head)
    assert found["mae"] == pytest.approx(mean_absolute_error(true, guess), rel=1e-5)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(true, guess), rel=1e-5)
    assert found["length_mae"] == pytest.approx((0 + 2 + 2) / 3)
    pair = [x.reshape(-1, 16) for x in (true, guess)]  # all known frames, band by band
    r2 = r2_score(*pair, multioutput="variance_weighted")
    assert frames.score(placed, targets, head) == pytest.approx(r2, abs=1e-5)
    cepstra = [dct(x.astype(np.float64) / 2, axis=1)[:, 1:14] / 16 for x in pair]  # of ln amplitudes: a cosine series
    each = 10 * math.sqrt(2) / math.log(10) * np.linalg.norm(cepstra[0] - cepstra[1], axis=1)
    assert found["mcd_db"] == pytest.approx(each.mean(), rel=1e-4)
    some = np.array([0, 0, 2])  # as an interval draws rows
    again = frames.placed(output[some], output[some], targets[some], head)
    assert frames.score(placed[some], targets[some], head) == pytest.approx(frames.score(again, targets[some], head))


def test_distortion_is_the_root_mean_square_of_a_spectrums_difference_in_decibels():
    """Of energies that differ by a cosine over mel frequency, of 6 dB at its most: 6 / sqrt(2), whatever the number of bands."""
    for bands in (16, 80):
        wave = np.cos(3 * np.pi * (np.arange(bands) + 0.5) / bands)
        errors = (6 / 10 * math.log(10) * wave)[None, None]
        assert frames.distortion(errors) == pytest.approx(6 / math.sqrt(2))


def test_who_always_says_the_mean_is_worth_nothing_and_the_truth_everything():
    head, targets = described(of_lengths(6, 6, 6, 4))
    mean = frames.majority(targets, head, 4)
    assert np.isfinite(mean).all() and mean[0, -1] == 5.5
    assert frames.score(frames.placed(mean, mean, targets, head), targets, head) < 0.5
    right = np.nan_to_num(targets)
    assert frames.score(frames.placed(right, right, targets, head), targets, head) == 1.0
    assert np.isnan(frames.score(frames.placed(np.full_like(right, np.inf), right, targets, head), targets, head))
    assert (frames.errors(right, targets, head) == 0).all()


def test_a_prediction_is_an_array_as_long_as_its_last_column_says():
    head, _ = described(of_lengths(3, 4, bands=2))
    output = np.arange(9, dtype=np.float32)[None].repeat(3, axis=0)
    output[:, -1] = [2.4, 99, -1]
    found = frames.predictions(output, head)
    assert [each.array.shape for each in found] == [(2, 2), (4, 2), (1, 2)]
    assert found[0].record() == {"array": [[0, 1], [2, 3]], "length": 2} and "array [2, 2]" in found[0].words()
