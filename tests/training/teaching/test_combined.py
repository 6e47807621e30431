"""Several teachers: the mean of what they say, by weight and by confidence, whoever has no answer."""

import numpy as np
import pytest
import torch

from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.tasks import Head
from mmedge.training.losses import classification
from mmedge.training.teaching.combined import Combined
from mmedge.training.teaching.sources import TeacherOutputs

RNG = np.random.default_rng(0)
ROWS = np.arange(6)


class Says:
    """A source with the given probabilities [6, classes], over some columns, and no answer to some rows."""

    fixed, notes, heads, modules = False, (), ("logits",), ()

    def __init__(self, p, columns=None, silent=()):
        self.key, self.columns = str(p), {} if columns is None else {"logits": np.array(columns)}
        self._logits = np.log(p).astype(np.float32) + 3
        self._taught = ~np.isin(ROWS, silent)

    def outputs(self, index, view):
        taught = self._taught[index]
        return TeacherOutputs(
            {"logits": np.where(taught[:, None], self._logits[index], 0)}, taught, [self._logits[index]]
        )


def probabilities(classes=4):
    x = RNG.random((6, classes)) + 0.01
    return x / x.sum(axis=1, keepdims=True)


def together(*sources, weights=None, combine="average", outputs=4, task="classification"):
    labels = () if task == "regression" else tuple("abcd"[:outputs])
    contract = Contract(modalities={}, heads={"logits": Head(task=task, labels=labels)})
    made = Combined(sources, weights or [1.0] * len(sources), combine=combine, contract=contract)
    return made, made.outputs(ROWS, 0)


def said(outputs):
    return torch.from_numpy(outputs.logits["logits"]).double().softmax(dim=1).numpy()


def test_an_average_is_the_weighted_mean_of_probabilities_and_the_hints_are_the_firsts():
    a, b = probabilities(), probabilities()
    made, outputs = together(Says(a), Says(b), weights=[1.0, 3.0])
    np.testing.assert_allclose(said(outputs), 0.25 * a + 0.75 * b, rtol=1e-5)
    assert outputs.taught.all() and made.columns == {}
    np.testing.assert_array_equal(outputs.hints[0], Says(a).outputs(ROWS, 0).logits["logits"])


def test_the_gradient_of_hintons_loss_to_the_average_is_the_mean_of_those_to_each_teacher():
    a, b = probabilities(), probabilities()
    student = torch.from_numpy(RNG.normal(size=(6, 4))).requires_grad_()

    def grad(p):
        return torch.autograd.grad(classification.kd(student, torch.from_numpy(np.log(p)), 1.0), student)[0]

    mean = said(together(Says(a), Says(b))[1])
    torch.testing.assert_close(grad(mean), (grad(a) + grad(b)) / 2, rtol=1e-4, atol=1e-6)


def test_confidence_weighs_each_sample_by_one_over_the_classes_a_teacher_hesitates_between():
    sure, unsure = np.full((6, 4), 1e-9), np.full((6, 4), 0.25)
    sure[:, 1] = 1 - 3e-9
    _, outputs = together(Says(sure), Says(unsure), combine="confidence")
    # Perplexities 1 and 4: weights 4 to 1.
    np.testing.assert_allclose(said(outputs)[:, 1], 0.8 + 0.2 * 0.25, rtol=1e-4)


def test_a_teacher_without_an_answer_has_no_say_and_where_nobody_has_one_the_sample_is_not_taught():
    a, b = probabilities(), probabilities()
    _, outputs = together(Says(a, silent=[0, 1]), Says(b, silent=[1, 2]))
    assert outputs.taught.tolist() == [True, False, True, True, True, True]
    np.testing.assert_allclose(said(outputs)[0], b[0], rtol=1e-5)
    np.testing.assert_allclose(said(outputs)[2], a[2], rtol=1e-5)
    np.testing.assert_allclose(said(outputs)[3], (a[3] + b[3]) / 2, rtol=1e-5)


def test_a_specialist_splits_what_the_others_give_to_its_classes_and_moves_nothing_else():
    a, b = probabilities(), probabilities(2)
    _, outputs = together(Says(a), Says(b, columns=[1, 3], silent=[5]))
    filled = a.copy()
    filled[:, [1, 3]] = b * a[:, [1, 3]].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(said(outputs)[:5], (a + filled)[:5] / 2, rtol=1e-5)
    np.testing.assert_allclose(said(outputs)[5], a[5], rtol=1e-5)


def test_teachers_who_know_the_same_few_classes_teach_those_and_strangers_are_refused():
    made, outputs = together(Says(probabilities(2), columns=[0, 2]), Says(probabilities(2), columns=[0, 2]))
    assert made.columns["logits"].tolist() == [0, 2] and outputs.logits["logits"].shape == (6, 2)
    with pytest.raises(UsageError, match="no teacher knows all classes"):
        together(Says(probabilities(2), columns=[0, 1]), Says(probabilities(2), columns=[2, 3]))


def test_values_of_a_regression_are_averaged():
    class Value(Says):
        def __init__(self, values, silent=()):
            super().__init__(np.ones((6, 1)), silent=silent)
            self._logits = np.asarray(values, np.float32)[:, None]

    _, outputs = together(Value(ROWS, silent=[0]), Value(ROWS + 4.0), weights=[1.0, 3.0], outputs=1, task="regression")
    assert outputs.logits["logits"][:, 0].tolist() == [4.0, 4.0, 5.0, 6.0, 7.0, 8.0] and outputs.taught.all()


def test_each_of_several_labels_is_the_mean_over_the_teachers_that_know_it():
    class Labels(Says):
        def __init__(self, p, **more):
            super().__init__(p, **more)
            self._logits = np.log(p / (1 - p)).astype(np.float32)

    a, b = RNG.uniform(0.05, 0.95, (6, 3)), RNG.uniform(0.05, 0.95, (6, 2))
    made, outputs = together(Labels(a), Labels(b, columns=[0, 2], silent=[1]), outputs=3, task="multilabel")
    expected = a.copy()
    expected[:, [0, 2]] = (a[:, [0, 2]] + b) / 2
    expected[1] = a[1]
    assert made.columns == {} and outputs.taught.all()
    np.testing.assert_allclose(1 / (1 + np.exp(-outputs.logits["logits"])), expected, rtol=1e-4)
    # Strangers are welcome, since labels do not share a softmax; a sample of which one label has no answer is not taught.
    left, right = Labels(a[:, :1], columns=[0], silent=[3]), Labels(b, columns=[1, 2])
    _, outputs = together(left, right, outputs=3, task="multilabel", combine="confidence")
    assert outputs.taught.tolist() == [True, True, True, False, True, True]
    np.testing.assert_allclose(1 / (1 + np.exp(-outputs.logits["logits"][0])), [*a[0, :1], *b[0]], rtol=1e-4)
