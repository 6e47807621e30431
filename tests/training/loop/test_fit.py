"""The one training loop: it resumes exactly, keeps the best epoch, and survives divergence."""

import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mmedge.contract import Contract
from mmedge.errors import MmedgeError, UsageError
from mmedge.measure.quality import predict_module, score
from mmedge.models import load
from mmedge.progress import Silent
from mmedge.recipe import Augment, Model, Train
from mmedge.spec import ArraySpec
from mmedge.tracking import following
from mmedge.training.loop import precision
from mmedge.training.loop.batches import Batch, Training, batches
from mmedge.training.loop.fit import _best, fit
from mmedge.training.objectives import Supervised
from tests.conftest import child_environment
from tests.heads import samples as made_samples

CONTRACT = Contract(
    task="classification", modalities={"series": ArraySpec(kind="array", shape=(2, 6))}, labels=("a", "b", "c")
)
TRAIN = Train(epochs=6, batch_size=16, learning_rate=0.01, views=2, augment={"series": Augment(shift=1, noise=0.2)})


# All that has a state of its own from epoch to epoch.
STATEFUL = TRAIN.model_copy(
    update={
        "optimizer": "sgd",
        "nesterov": True,
        "learning_rate": 0.05,
        "ema": 0.9,
        "accumulate": 2,
        "precision": "bf16",
        "early_stopping": 2,
    }
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
        )

    def forward(self, present, series):
        return {"logits": self.layers(series)}


def split(name, n, seed):
    rng = np.random.default_rng(seed)
    targets = np.arange(n) % 3
    x = (rng.normal(size=(n, 2, 6)) + targets[:, None, None]).astype(np.float32)
    return made_samples(name, tuple(map(str, range(n))), {"series": x}, np.ones((n, 1), bool), targets, np.arange(n))


def trained(state, objective=None, train=TRAIN, seed=0, module=None, progress=None, **more):
    torch.manual_seed(seed)
    module = module or Net()
    samples = split("train", 160, 0)
    fitted = fit(
        module,
        objective or Supervised(CONTRACT, train),
        Training(CONTRACT, samples, split("validation", 60, 1), train, np.arange(len(samples)), seed, 0),
        state=state,
        task="training",
        progress=progress or Silent(),
        **more,
    )
    return module, fitted


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def without_seconds(history):
    return [{name: value for name, value in record.items() if name not in ("seconds", "waiting")} for record in history]


class Stop(Exception):
    pass


class StoppedIn(nn.Module):
    """The supervised objective, which fails in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.left, self.inner = epoch * 10 + 5, Supervised(CONTRACT, TRAIN)

    def forward(self, module, batch):
        self.left -= 1
        if self.left < 0:
            raise Stop
        return self.inner(module, batch)


@pytest.mark.parametrize("epoch", [1, 5])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema": 0.99},
        {"optimizer": "sgd", "learning_rate": 0.05},
        {"optimizer": "sgd", "momentum": 0.0},
        {"precision": "fp16"},
        {"augment": {}},
    ],
    ids=str,
)
def test_a_stopped_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, epoch, options, monkeypatch):
    monkeypatch.setattr(precision, "require_precision", lambda *_: None)  # FP16 on a CPU: slow, but its scaler is real
    train = TRAIN.model_copy(update=options)
    whole, expected = trained(tmp_path / "a.safetensors", train=train)
    with pytest.raises(Stop):
        trained(tmp_path / "b.safetensors", StoppedIn(epoch), train)
    resumed, fitted = trained(tmp_path / "b.safetensors", train=train)
    assert same(resumed, whole)
    assert without_seconds(fitted.history) == without_seconds(expected.history)


@pytest.mark.long
@pytest.mark.parametrize("options", ["TRAIN", "STATEFUL"])
def test_a_killed_process_goes_on_with_the_same_weights_bit_for_bit(tmp_path, options):
    """SIGKILL in mid-training: nothing of the process can tidy up."""
    code = (
        "import sys, time, pathlib\n"
        "from tests.training.loop import test_fit as t\n"
        "inner = t.Supervised(t.CONTRACT, t.TRAIN)\n"
        "def slow(module, batch):\n"
        "    time.sleep(0.02)\n"
        "    return inner(module, batch)\n"
        f"t.trained(pathlib.Path(sys.argv[1]), slow, t.{options})\n"
    )
    state, train = tmp_path / "state.safetensors", globals()[options]
    environment = child_environment()
    killed = subprocess.Popen([sys.executable, "-c", code, str(state)], env=environment, cwd=environment["PYTHONPATH"])
    while not state.is_file():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(60) == -signal.SIGKILL
    resumed, _ = trained(state, train=train)
    whole, _ = trained(tmp_path / "whole.safetensors", train=train)
    assert same(resumed, whole)


def test_training_again_with_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    one, two, other = (trained(tmp_path / name, seed=seed)[0] for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert same(one, two) and not same(one, other)


def test_a_finished_training_is_not_trained_again(tmp_path):
    whole, _ = trained(tmp_path / "a")
    again, _ = trained(tmp_path / "a", StoppedIn(-1))
    assert same(whole, again)


def test_it_learns_and_ends_in_evaluation_mode(tmp_path):
    module, fitted = trained(tmp_path / "a")
    assert not module.training and fitted.history[-1]["loss"] < fitted.history[0]["loss"]
    assert fitted.history[fitted.best_epoch - 1]["quality"] > 0.6


class Diverging(nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.left, self.inner = steps, Supervised(CONTRACT, TRAIN)

    def forward(self, module, batch):
        self.left -= 1
        return self.inner(module, batch) * (float("nan") if self.left < 0 else 1.0)


def test_divergence_keeps_the_best_epoch_before_it_and_says_so(tmp_path):
    module, fitted = trained(tmp_path / "a", Diverging(25))
    assert len(fitted.history) == 2 and "diverged in epoch 3" in fitted.notes[0] and fitted.diverged
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


def test_divergence_in_the_last_step_of_an_epoch_does_not_keep_broken_weights(tmp_path):
    """The loss of that step is still finite; the weights after it are not."""

    class Breaking(nn.Module):
        def __init__(self):
            super().__init__()
            self.step, self.inner = 0, Supervised(CONTRACT, TRAIN)

        def forward(self, module, batch):
            self.step += 1
            loss = self.inner(module, batch)
            if self.step == 10:  # the last of the first epoch: finite loss, infinite gradient
                loss = loss + torch.sqrt(sum(p.sum() * 0 for p in module.parameters()))
            return loss

    with pytest.raises(MmedgeError, match="diverged"):
        trained(tmp_path / "a", Breaking())


def test_divergence_before_a_first_good_epoch_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(MmedgeError, match="learning_rate") as error:
        trained(tmp_path / "a", Diverging(3))
    assert "epoch 1, step 4 of 10" in error.value.where


def test_a_model_that_answers_nan_from_the_start_is_not_blamed_on_the_learning_rate(tmp_path):
    with pytest.raises(MmedgeError, match="very first batch is not finite") as error:
        trained(tmp_path / "a", Diverging(0))
    assert "learning_rate" not in error.value.todo and "step 1 of 10" in error.value.where


@pytest.mark.parametrize(("selections", "best"), [((0.2, 0.5, 0.4), 2), ((0.5, 0.5, 0.4), 2), ((0.1,), 1)])
def test_the_best_epoch_is_that_of_the_weighed_selection_and_of_equals_the_last(selections, best):
    rising = [{"selection": selection, "quality": 0.1 * epoch} for epoch, selection in enumerate(selections)]
    assert _best(rising) == _best([record | {"quality": -record["quality"]} for record in rising]) == best


def test_the_best_epoch_by_validation_is_kept_and_not_the_last(tmp_path):
    class Spoiling(nn.Module):
        """Teaches the labels for three epochs, and then others."""

        def __init__(self):
            super().__init__()
            self.step, self.inner = 0, Supervised(CONTRACT, TRAIN)

        def forward(self, module, batch):
            self.step += 1
            moved = {"logits": (batch.targets["logits"] + (self.step > 30)) % 3}
            return self.inner(module, Batch(batch.index, batch.view, batch.inputs, batch.present, moved))

    module, fitted = trained(tmp_path / "a", Spoiling(), TRAIN.model_copy(update={"learning_rate": 0.05}))
    selections = [record["selection"] for record in fitted.history]
    assert fitted.best_epoch <= 3 and selections[fitted.best_epoch - 1] == max(selections) > selections[-1] + 0.1
    validation = split("validation", 60, 1)
    output = predict_module(module, CONTRACT, validation, validation.present)
    assert score(CONTRACT, output, validation.targets) == fitted.history[fitted.best_epoch - 1]["quality"]


class Dense(nn.Module):
    """Nothing that depends on the batch or draws."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, present, series):
        return {"logits": self.layers(series)}


def dense():
    torch.manual_seed(3)
    return Dense()


def close(one, two, **tolerance):
    pairs = zip(one.state_dict().values(), two.state_dict().values())
    return all(torch.allclose(a, b, **tolerance) for a, b in pairs)


@pytest.mark.parametrize("parts", [3, 16])
def test_a_batch_in_parts_teaches_what_the_whole_batch_does(tmp_path, parts):
    whole, _ = trained(tmp_path / "a", module=dense())
    split, _ = trained(tmp_path / "b", train=TRAIN.model_copy(update={"accumulate": parts}), module=dense())
    assert close(split, whole, atol=1e-5) and not close(whole, dense(), atol=1e-2)


def test_parts_with_unlike_numbers_of_labels_weigh_as_in_the_whole_batch():
    samples = split("train", 16, 0)
    samples.targets["logits"][:9] = -1
    drawn = [
        list(
            batches(
                Training(
                    CONTRACT, samples, samples, TRAIN.model_copy(update={"accumulate": number}), np.arange(16), 0, 0
                ),
                epoch=0,
            )
        )
        for number in (1, 5)
    ]
    (batch,), parts = drawn
    module, objective = dense(), Supervised(CONTRACT, TRAIN)
    assert [len(part.index) for part in parts] == [3, 3, 4, 3, 3] and sum(
        part.share for part in parts
    ) == pytest.approx(1)
    assert len({int((part.targets["logits"] >= 0).sum()) for part in parts}) > 1
    summed = sum(objective(module, part) * part.share for part in parts)
    torch.testing.assert_close(summed, objective(module, batch))


def test_the_average_of_the_weights_is_what_is_validated_and_kept(tmp_path):
    train = TRAIN.model_copy(update={"ema": 0.95, "augment": {}})
    kept, fitted = trained(tmp_path / "a", train=train)
    plain, _ = trained(tmp_path / "b", train=TRAIN.model_copy(update={"augment": {}}))
    assert not same(kept, plain)
    assert len({record["quality"] for record in fitted.history}) > 1  # it follows the weights, step by step
    validation = split("validation", 60, 1)
    output = predict_module(kept, CONTRACT, validation, validation.present)
    assert score(CONTRACT, output, validation.targets) == fitted.history[fitted.best_epoch - 1]["quality"]


def test_training_ends_when_no_epoch_was_better_for_as_long_as_the_patience_and_says_so(tmp_path):
    class Spoiling(nn.Module):
        def __init__(self):
            super().__init__()
            self.step, self.inner = 0, Supervised(CONTRACT, TRAIN)

        def forward(self, module, batch):
            self.step += 1
            moved = {"logits": (batch.targets["logits"] + (self.step > 20)) % 3}
            return self.inner(module, replace(batch, targets=moved))

    train = TRAIN.model_copy(update={"learning_rate": 0.05, "early_stopping": 2, "epochs": 30})
    module, fitted = trained(tmp_path / "a", Spoiling(), train)
    assert len(fitted.history) == fitted.best_epoch + 2 < 10
    assert fitted.notes == (
        f"stopped after epoch {len(fitted.history)} of 30: none was better than epoch {fitted.best_epoch}",
    )
    again, same_notes = trained(tmp_path / "a", StoppedIn(-1), train)  # resumed after its end: nothing is trained
    assert same(module, again) and same_notes.notes == fitted.notes


def test_a_batch_of_one_with_batch_norm_is_refused_and_named(tmp_path):
    with pytest.raises(UsageError, match=r"1 a part, and batch norm \(layers\.2\)"):
        trained(tmp_path / "a", train=TRAIN.model_copy(update={"accumulate": 16}))
    trained(tmp_path / "b", train=TRAIN.model_copy(update={"accumulate": 16, "epochs": 1}), module=dense())
    one = split("train", 1, 0)
    with pytest.raises(UsageError, match="a batch of 1 samples"):
        fit(
            Net(),
            Supervised(CONTRACT, TRAIN),
            Training(CONTRACT, one, one, TRAIN, np.arange(1), 0, 0),
            state=tmp_path / "c",
            task="t",
            progress=Silent(),
        )


def test_progress_tells_the_epoch_and_the_last_figure_of_validation(tmp_path):
    said = []

    class Kept(Silent):
        def step(self, task, done, total, text=""):
            said.append((done, total, text))

    _, fitted = trained(tmp_path / "a", progress=Kept())
    assert said[0] == (0, 60, "epoch 1/6")
    assert said[1] == (10, 60, f"epoch 2/6, validation {fitted.history[0]['quality']:.3f}")
    assert said[-1][:2] == (60, 60) and said[-1][2].endswith(f"epoch {fitted.best_epoch}")


@pytest.mark.parametrize("tracker", ["tensorboard", pytest.param("mlflow", marks=pytest.mark.slow)])
def test_a_tracker_gets_a_row_an_epoch_and_none_twice_after_an_interruption(tmp_path, monkeypatch, tracker):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    said = []
    with pytest.raises(Stop), following((tracker,), "run", tmp_path, said.append) as found:
        trained(tmp_path / "a.safetensors", StoppedIn(3), log=found.log("teacher/teacher"))
    with following((tracker,), "run", tmp_path, said.append) as found:
        identity = found.ids[tracker]
        _, fitted = trained(tmp_path / "a.safetensors", log=found.log("teacher/teacher"))
    if tracker == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "tensorboard" / "teacher" / "teacher")).Reload()
        rows = [(e.step, e.value) for e in events.Scalars("quality")]
    else:
        from mlflow import MlflowClient

        rows = [(m.step, m.value) for m in MlflowClient().get_metric_history(identity, "teacher/teacher/quality")]
    assert rows == [(h["epoch"], pytest.approx(h["quality"])) for h in fitted.history]
    assert not said and not list((tmp_path / ".work" / "tracking").iterdir()), "the next call is a run of its own"


@pytest.mark.parametrize("own", [True, False])
def test_weights_of_stacking_stay_equal_until_the_heads_have_learned(own, tmp_path):
    class Pretext(Supervised):
        figures = staticmethod(lambda module, training: {"quality": 0.0, "selection": 0.0})

    train = TRAIN.model_copy(update={"epochs": 1, "max_steps": 2})
    section = Model.model_validate({"fusion": "stacking", "encoders": {"series": {"widths": [8]}}})
    module, _ = trained(
        tmp_path / "s",
        (Pretext if own else Supervised)(CONTRACT, train),
        train=train,
        module=load.build(section, CONTRACT),
    )
    assert (float(module.fusion.weights) == 1) is own
