"""Quality: intervals over whole groups, subsets with holes, and the gain against a computation by hand."""

import numpy as np
import pytest

from mmedge.contract import Contract
from mmedge.errors import MmedgeError
from mmedge.measure.gain import decide, gain, paired
from mmedge.measure.intervals import of_figure, of_share
from mmedge.measure.quality import bootstrap_rows, quality, score, subset_scores
from mmedge.spec import ArraySpec
from mmedge.tasks import Head, multilabel
from tests.heads import samples

SPEC = ArraySpec(kind="array", shape=(1,))
CONTRACT = Contract(task="classification", modalities={"a": SPEC, "b": SPEC}, labels=("x", "y"))
VALUE = Contract(task="regression", modalities={"a": SPEC}, output="value")


def made(targets, groups=None, present=None):
    n = len(targets)
    present = np.ones((n, 2), bool) if present is None else np.array(present)
    groups = np.arange(n) if groups is None else np.array(groups)
    head = Head(task="regression") if np.asarray(targets).dtype.kind == "f" else CONTRACT.heads["logits"]
    return samples(
        "test",
        tuple(f"s{i}" for i in range(n)),
        {"a": np.zeros((n, 1)), "b": np.zeros((n, 1))},
        present,
        np.array(targets),
        groups,
        head=head,
        name="value" if head.task == "regression" else "logits",
    )


def logits(classes):
    return {"logits": np.eye(2, dtype=np.float32)[np.array(classes)]}


def test_accuracy_is_over_the_labelled_samples():
    assert score(CONTRACT, logits([0, 1, 1, 0]), {"logits": np.array([0, 1, 0, -1])}) == pytest.approx(2 / 3)


def test_r2_is_one_minus_the_unexplained_share():
    targets, output = np.array([1.0, 2.0, 3.0, np.nan]), np.array([[1.5], [2.0], [2.0], [9.0]])
    assert score(VALUE, {"value": output}, {"value": targets}) == pytest.approx(1 - (0.25 + 0 + 1) / 2)


def test_the_bootstrap_draws_whole_groups():
    groups = np.array([2, 0, 1, 0, 2, 2, 1, 0])
    for rows in bootstrap_rows(groups, 200, seed=0):
        counts = np.bincount(rows, minlength=8)
        for group in range(3):
            assert len(set(counts[groups == group])) == 1
        assert sum(counts[groups == group][0] for group in range(3)) == 3


def test_the_bootstrap_is_that_of_its_seed():
    first, second, other = (bootstrap_rows(np.arange(9), 5, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other))


def test_an_intervals_of_one_group_is_that_of_its_samples_and_not_of_no_width():
    right = np.arange(100) % 4 > 0
    one_group = np.zeros(100, int)
    for found in (of_share(right, one_group), of_figure(lambda rows: right[rows].mean(), one_group)):
        assert found.low == pytest.approx(0.655, abs=0.01) and found.high == pytest.approx(0.83, abs=0.01)
    alone = made(np.arange(100) % 2)
    answers = logits(np.where(right, alone.targets["logits"], 1 - alone.targets["logits"]))
    one = made(alone.targets["logits"], groups=np.zeros(100, int))
    assert quality(CONTRACT, answers, one).ci95[0] < 0.75
    for seeds in (1, 3):
        low, high = paired(lambda _, rows: right[rows].mean(), seeds, one, resamples=100, seed=0)
        assert low < 0.71 and high > 0.79


def test_samples_of_one_group_widen_the_interval():
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(40) < 0.7, 10)
    output = logits(right.astype(int))
    targets = np.ones(400, int)
    alone = quality(CONTRACT, output, made(targets))
    grouped = quality(CONTRACT, output, made(targets, np.repeat(np.arange(40), 10)))
    assert alone.value == grouped.value and (alone.groups, grouped.groups) == (400, 40)
    assert np.ptp(grouped.ci95) > 2 * np.ptp(alone.ci95)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(100):
        right = rng.random(150) < 0.8
        low, high = quality(CONTRACT, logits(right.astype(int)), made(np.ones(150, int))).ci95
        covered += low <= 0.8 <= high
    assert 0.87 <= covered / 100 <= 0.99


def test_an_output_with_nan_is_told_with_its_sample():
    output = logits([0, 1, 0])
    output["logits"][1, 0] = np.nan
    with pytest.raises(MmedgeError, match="sample s1"):
        quality(CONTRACT, output, made([0, 1, 0]))


def test_a_subset_is_scored_over_the_samples_that_have_it_and_shown_only_it():
    present = [[True, True], [True, False], [False, True], [True, True]]
    samples = made([0, 1, 1, 0], present=present)
    seen = []

    def predict(present):
        seen.append(present.copy())
        # Right where a is present, wrong elsewhere.
        return logits(np.where(present[:, 0], samples.targets["logits"], 1 - samples.targets["logits"]))

    assert subset_scores(CONTRACT, samples, predict) == {"a": 1.0, "b": 0.0, "a+b": 1.0}
    alone_a, alone_b, both = seen
    np.testing.assert_array_equal(alone_a[[0, 1, 3]], [[True, False]] * 3)
    np.testing.assert_array_equal(alone_b[[0, 2, 3]], [[False, True]] * 3)
    np.testing.assert_array_equal(both[[0, 3]], [[True, True]] * 2)
    assert all(shown.any(axis=1).all() and not (shown & ~samples.present).any() for shown in seen)


def test_a_subset_that_no_labelled_sample_has_is_left_out():
    samples = made([0, -1, 1], present=[[True, False], [True, True], [False, True]])
    assert list(subset_scores(CONTRACT, samples, lambda present: logits([0, 0, 1]))) == ["a", "b"]


def test_a_subset_whose_regression_targets_are_all_equal_is_left_out_and_not_nan():
    contract = VALUE.model_copy(update={"modalities": {"a": SPEC, "b": SPEC}})
    samples = made([1.0, 2.0, 5.0], present=[[True, True], [True, False], [True, False]])
    scores = subset_scores(contract, samples, lambda present: {"value": np.array([[1.0], [2.0], [5.0]])})
    assert scores == {"a": 1.0}


def test_the_gain_is_the_mean_difference_over_the_seeds():
    targets = np.array([0, 1] * 20)
    right, half = logits(targets), logits(np.zeros(40, int))
    record = gain(CONTRACT, [right, right], [half, right], made(targets), name="no-distillation", resamples=300, seed=0)
    assert record.gain == pytest.approx(0.25) and record.seeds == 2
    three = gain(CONTRACT, [right] * 3, [half, half, right], made(targets), name="no-distillation", resamples=9, seed=0)
    assert three.gain == pytest.approx(1 / 3) and three.gain_median == pytest.approx(0.5)
    assert record.distilled_by_seed == [1.0, 1.0] and record.control_by_seed == [0.5, 1.0]
    # Two pairs, of gains 0.5 and 0: by Student's t with about one degree of freedom they prove nothing.
    low, high = record.gain_ci95
    assert low < -1 and high > 1 and low + high == pytest.approx(0.5) and "no proven gain" in record.notes[0]


@pytest.mark.parametrize(("of_seeds", "shared", "own"), [(0.05, 0.0, 0.1), (0.02, 0.3, 0.2)])
def test_of_three_seeds_the_gains_interval_covers_the_truth_about_as_often_as_it_says(of_seeds, shared, own):
    """Chance of the seeds, of the samples for all seeds, and of each seed's samples: a bootstrap of seeds covers .77 of the first."""
    rng, covered, samples, trials = np.random.default_rng(0), 0, made(np.zeros(30, int)), 150
    for trial in range(trials):
        gains = rng.normal(0, of_seeds, (3, 1)) + rng.normal(0, shared, 30) + rng.normal(0, own, (3, 30))
        low, high = paired(lambda n, rows, of=gains: of[n, rows].mean(), 3, samples, resamples=40, seed=trial)
        covered += low <= 0 <= high
    assert 0.9 <= covered / trials <= 0.99


def test_more_seeds_narrow_the_gains_interval():
    rng, samples = np.random.default_rng(0), made(np.zeros(60, int))
    gains = np.resize([0.08, 0.12], (12, 1)) + rng.normal(0, 0.05, (12, 60))
    widths = []
    for seeds in (2, 4, 12):
        low, high = paired(lambda n, rows: gains[n, rows].mean(), seeds, samples, resamples=100, seed=0)
        assert (low + high) / 2 == pytest.approx(gains[:seeds].mean())
        widths.append(high - low)
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_the_gains_interval_without_samples_chance_is_that_of_the_seeds():
    targets = np.zeros(30, int)
    record = gain(
        CONTRACT,
        [logits(targets)] * 3,
        [logits(targets + 1)] * 3,
        made(targets),
        name="no-distillation",
        resamples=100,
        seed=0,
    )
    low, high = record.gain_ci95  # thirty samples of which none differs: the rule of three, and no width zero
    assert record.gain == 1 and 0.85 < low < 0.9 and high > 1 and "helps" in record.notes[0]
    assert "one seed" not in record.notes[0]
    worse = gain(
        CONTRACT, [logits(targets + 1)], [logits(targets)], made(targets), name="no-distillation", resamples=100, seed=0
    )
    assert worse.gain == -1 and worse.notes[0].startswith(
        "no proven gain; of one seed, so that what another would give"
    )


def test_the_gain_counts_labelled_samples_only():
    targets = np.array([0, 1, -1, -1])
    record = gain(
        CONTRACT,
        [logits([0, 1, 0, 0])],
        [logits([1, 1, 0, 0])],
        made(targets),
        name="no-distillation",
        resamples=100,
        seed=0,
    )
    assert record.gain == pytest.approx(0.5)


def subset_answers_of(targets, right):
    """One student's answers where everything is present in every row: {subset: share that is right}."""
    everything = np.ones(len(targets), bool)
    wrong = {name: np.arange(len(targets)) >= share * len(targets) for name, share in right.items()}
    return {name: (everything, logits(np.where(wrong[name], 1 - targets, targets))) for name in right}


def test_the_decision_weighs_all_modalities_present_as_much_as_the_mean_of_the_subsets():
    targets = np.array([0, 1] * 20)
    ours = subset_answers_of(targets, {"a": 0.5, "b": 0.5, "a+b": 1.0})
    theirs = subset_answers_of(targets, {"a": 0.75, "b": 0.75, "a+b": 0.95})
    said = decide(CONTRACT, [ours], [theirs], made(targets), resamples=100, seed=0)
    expected = 0.5 * (1.0 - 0.95) + 0.5 * ((0.5 + 0.5 + 1.0) - (0.75 + 0.75 + 0.95)) / 3
    assert said.gain == pytest.approx(expected) and said.kept == "control"
    assert said.said.startswith("do not distil") and said.gain_ci95[0] <= expected <= said.gain_ci95[1]
    other = decide(CONTRACT, [theirs], [ours], made(targets), resamples=100, seed=0)
    assert other.kept == "distilled" and other.gain == pytest.approx(-expected)


def test_a_student_no_better_than_the_one_without_a_teacher_is_not_kept():
    targets = np.array([0, 1] * 20)
    same = subset_answers_of(targets, {"a": 0.5, "b": 0.5, "a+b": 0.9})
    assert decide(CONTRACT, [same], [same], made(targets), resamples=50, seed=0).kept == "control"


def test_the_decision_leaves_a_subset_without_a_figure_out_and_is_made_by_the_others():
    contract = VALUE.model_copy(update={"modalities": CONTRACT.modalities})
    targets = np.array([1, 1, 2, 3, 4, 5], np.float32)
    equal, everything = np.arange(6) < 2, np.ones(6, bool)  # of the subset b, all targets are equal: no R2

    def answers(error):
        output = {"value": (targets + error * np.array([1, -1] * 3))[:, None]}
        return {"a": (everything, output), "b": (equal, output), "a+b": (everything, output)}

    said = decide(contract, [answers(0.1)], [answers(0.5)], made(targets), resamples=50, seed=0)
    assert said.kept == "distilled" and -0.1 < said.gain_ci95[0] < said.gain < said.gain_ci95[1]


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [(0.9, 0.9, "holds: no more than 0.02 below"), (0.5, 0.95, "falls 0.450 below a student trained")],
)
def test_a_student_is_held_against_one_trained_for_the_subset_alone(ours, theirs, said):
    targets = np.array([0, 1] * 20)
    first, second = (subset_answers_of(targets, {"a": share})["a"][1] for share in (ours, theirs))
    record = gain(CONTRACT, [first], [second], made(targets), name="alone-a", resamples=50, seed=0)
    assert record.notes[0].startswith(said)


def test_average_precision_is_scikit_learns_with_and_without_ties():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    targets = (rng.random((50, 4)) < 0.3).astype(np.float32)
    for output in (rng.standard_normal((50, 4)), rng.integers(0, 4, (50, 4)).astype(float)):
        expected = average_precision_score(targets, output, average="macro")
        assert multilabel.score(output, targets, Head(task="multilabel")) == pytest.approx(expected)
    targets[:, 1] = 0  # a label that no sample has is left out
    expected = average_precision_score(targets[:, [0, 2, 3]], output[:, [0, 2, 3]], average="macro")
    assert multilabel.score(output, targets, Head(task="multilabel")) == pytest.approx(expected)
    assert np.isnan(multilabel.score(output, np.zeros_like(targets), Head(task="multilabel")))
