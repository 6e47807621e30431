"""The one training loop: it resumes exactly, keeps the best epoch, and survives divergence."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from mmedge.data.samples import Samples
from mmedge.errors import MmedgeError
from mmedge.measure.quality import predict_module, score
from mmedge.progress import Silent
from mmedge.recipe import Augment, Train
from mmedge.spec import ArraySpec, Contract
from mmedge.training.batches import Batch
from mmedge.training.fit import fit
from mmedge.training.objectives import supervised
from tests.conftest import child_environment

CONTRACT = Contract(
    task="classification", modalities={"series": ArraySpec(kind="array", shape=(2, 6))}, labels=("a", "b", "c")
)
TRAIN = Train(epochs=6, batch_size=16, learning_rate=0.01, views=2, augment={"series": Augment(shift=1, noise=0.2)})


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
    return Samples(name, tuple(map(str, range(n))), {"series": x}, np.ones((n, 1), bool), targets, np.arange(n))


def trained(state, objective=None, train=TRAIN, seed=0, module=None):
    torch.manual_seed(seed)
    module = module or Net()
    samples = split("train", 160, 0)
    fitted = fit(
        module,
        objective or supervised(CONTRACT, train),
        CONTRACT,
        samples,
        split("validation", 60, 1),
        train,
        seed=seed,
        view_seed=0,
        usable=np.arange(len(samples)),
        state=state,
        task="training",
        progress=Silent(),
    )
    return module, fitted


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def without_seconds(history):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in history]


class Stop(Exception):
    pass


class StoppedIn(nn.Module):
    """The supervised objective, which fails in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.left, self.inner = epoch * 10 + 5, supervised(CONTRACT, TRAIN)

    def forward(self, module, batch):
        self.left -= 1
        if self.left < 0:
            raise Stop
        return self.inner(module, batch)


@pytest.mark.parametrize("epoch", [1, 5])
def test_a_stopped_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, epoch):
    whole, expected = trained(tmp_path / "a.safetensors")
    with pytest.raises(Stop):
        trained(tmp_path / "b.safetensors", StoppedIn(epoch))
    resumed, fitted = trained(tmp_path / "b.safetensors")
    assert same(resumed, whole)
    assert without_seconds(fitted.history) == without_seconds(expected.history)


def test_a_killed_process_goes_on_with_the_same_weights_bit_for_bit(tmp_path):
    """SIGKILL in mid-training: nothing of the process can tidy up."""
    code = (
        "import sys, time, pathlib, torch\n"
        "from tests.training import test_fit as t\n"
        "inner = t.supervised(t.CONTRACT, t.TRAIN)\n"
        "def slow(module, batch):\n"
        "    time.sleep(0.02 if len(sys.argv) > 2 else 0)\n"
        "    return inner(module, batch)\n"
        "module, _ = t.trained(pathlib.Path(sys.argv[1]), slow)\n"
        "torch.save(module.state_dict(), sys.argv[1] + '.pt')\n"
    )
    state = tmp_path / "state.safetensors"
    command = [sys.executable, "-c", code, str(state)]
    environment = child_environment()
    killed = subprocess.Popen([*command, "slowly"], env=environment, cwd=environment["PYTHONPATH"])
    while not state.is_file():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(60) == -signal.SIGKILL
    assert not (tmp_path / "state.safetensors.pt").exists()
    subprocess.run(command, env=environment, cwd=environment["PYTHONPATH"], check=True, timeout=120)
    resumed = torch.load(tmp_path / "state.safetensors.pt", weights_only=True)
    whole, _ = trained(tmp_path / "whole.safetensors")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.state_dict().items())


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
        self.left, self.inner = steps, supervised(CONTRACT, TRAIN)

    def forward(self, module, batch):
        self.left -= 1
        return self.inner(module, batch) * (float("nan") if self.left < 0 else 1.0)


def test_divergence_keeps_the_best_epoch_before_it_and_says_so(tmp_path):
    module, fitted = trained(tmp_path / "a", Diverging(25))
    assert len(fitted.history) == 2 and "diverged in epoch 3" in fitted.notes[0]
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


def test_divergence_in_the_last_step_of_an_epoch_does_not_keep_broken_weights(tmp_path):
    """The loss of that step is still finite; the weights after it are not."""

    class Breaking(nn.Module):
        def __init__(self):
            super().__init__()
            self.step, self.inner = 0, supervised(CONTRACT, TRAIN)

        def forward(self, module, batch):
            self.step += 1
            loss = self.inner(module, batch)
            if self.step == 10:  # the last of the first epoch: finite loss, infinite gradient
                loss = loss + torch.sqrt(sum(p.sum() * 0 for p in module.parameters()))
            return loss

    with pytest.raises(MmedgeError, match="diverged"):
        trained(tmp_path / "a", Breaking())


def test_divergence_before_a_first_good_epoch_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(MmedgeError, match="learning_rate"):
        trained(tmp_path / "a", Diverging(3))


def test_the_best_epoch_by_validation_is_kept_and_not_the_last(tmp_path):
    class Spoiling(nn.Module):
        """Teaches the labels for three epochs, and then others."""

        def __init__(self):
            super().__init__()
            self.step, self.inner = 0, supervised(CONTRACT, TRAIN)

        def forward(self, module, batch):
            self.step += 1
            moved = (batch.targets + (self.step > 30)) % 3
            return self.inner(module, Batch(batch.index, batch.view, batch.inputs, batch.present, moved))

    module, fitted = trained(tmp_path / "a", Spoiling(), TRAIN.model_copy(update={"learning_rate": 0.05}))
    selections = [record["selection"] for record in fitted.history]
    assert fitted.best_epoch <= 3 and selections[fitted.best_epoch - 1] == max(selections) > selections[-1] + 0.1
    validation = split("validation", 60, 1)
    output = predict_module(module, CONTRACT, validation, validation.present)
    assert score(CONTRACT, output, validation.targets) == fitted.history[fitted.best_epoch - 1]["quality"]
