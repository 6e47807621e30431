"""Figures of labels are scikit-learn's, whole and of one label, for each task that has labels."""

import numpy as np
import pytest
from sklearn import metrics

from mmedge.tasks import classification, multilabel, ordinal
from mmedge.tasks.head import Head

RANDOM = np.random.default_rng(0)
LABELS = ("a", "b", "c", "d")
HEAD = Head(task="classification", labels=LABELS)
TARGETS = RANDOM.integers(0, 4, 200)
OUTPUT = RANDOM.normal(size=(200, 4)) + 1.5 * np.eye(4)[TARGETS]


def test_figures_of_one_label_a_row_are_scikit_learns():
    found, p = OUTPUT.argmax(axis=1), classification.probabilities(OUTPUT)
    wanted = {"balanced_accuracy": metrics.balanced_accuracy_score(TARGETS, found)}
    for name in ("precision", "recall", "f1"):
        function = getattr(metrics, f"{name}_score")
        wanted |= {f"{name}_micro": function(TARGETS, found, average="micro"), name: function(TARGETS, found, average="macro")}  # fmt: skip
        wanted |= {f"{name}.{label}": score for label, score in zip(LABELS, function(TARGETS, found, average=None))}
    wanted["roc_auc"] = metrics.roc_auc_score(TARGETS, p, multi_class="ovr")
    wanted["roc_auc.c"] = metrics.roc_auc_score(TARGETS == 2, p[:, 2])
    wanted["average_precision"] = metrics.average_precision_score(np.eye(4)[TARGETS], p)
    wanted |= {f"top_{k}": metrics.top_k_accuracy_score(TARGETS, p, k=k) for k in (2, 3)}
    for name, value in wanted.items():
        assert classification.further(name, OUTPUT, TARGETS, HEAD) == pytest.approx(value), name
    assert classification.others(OUTPUT, TARGETS, HEAD)["f1"] == pytest.approx(wanted["f1"])


def test_figures_of_any_number_of_labels_are_scikit_learns():
    has = (RANDOM.random((200, 4)) < [0.2, 0.5, 0.3, 0.4]).astype(np.float32)
    output = RANDOM.normal(size=(200, 4)) + 2 * has - 1
    head = Head(task="multilabel", labels=LABELS)
    for name in ("precision", "recall", "f1"):
        function = getattr(metrics, f"{name}_score")
        for average in ("micro", "macro"):
            wanted = function(has, output > 0, average=average)
            figure = f"{name}_micro" if average == "micro" else name
            assert multilabel.further(figure, output, has, head) == pytest.approx(wanted), figure
        assert multilabel.further(f"{name}.d", output, has, head) == pytest.approx(
            function(has[:, 3], output[:, 3] > 0)
        )
    assert multilabel.further("roc_auc", output, has, head) == pytest.approx(metrics.roc_auc_score(has, output))
    assert multilabel.further("average_precision.b", output, has, head) == pytest.approx(
        metrics.average_precision_score(has[:, 1], output[:, 1])
    )


def test_what_there_is_not_is_nan_and_equal_outputs_are_among_the_first_of_nobody():
    head = Head(task="ordinal", labels=LABELS)
    grades = ordinal.further("balanced_accuracy", np.full((4, 3), -9.0), np.array([0, 0, 1, 2]), head)
    assert grades == pytest.approx(1 / 3)
    for name in ("nonsense", "f1.e", "top_2.a", "balanced_accuracy.a", "mae"):
        assert np.isnan(classification.further(name, OUTPUT, TARGETS, HEAD)), name
    alone = np.zeros(5, np.int64)
    assert np.isnan(classification.further("roc_auc", OUTPUT[:5], alone, HEAD))
    assert classification.further("top_3", np.zeros((5, 4)), alone, HEAD) == 0
