"""Differentially private training: each sample's own gradient, cut and noised; what it costs is counted, and resumed."""

import numpy as np
import pytest
import torch

from mmedge import tasks
from mmedge.contract import Contract
from mmedge.errors import MissingDependency, UsageError
from mmedge.models import load
from mmedge.progress import Silent
from mmedge.recipe import Encoder, Loss, Model, Privacy, Train
from mmedge.spec import ArraySpec, TextSpec
from mmedge.tasks import Head
from mmedge.training import losses
from mmedge.training.loop import accounting
from mmedge.training.loop.accounting import Phase, epsilon_of, noise_for
from mmedge.training.loop.batches import Batch, Training, batches
from mmedge.training.loop.fit import fit
from mmedge.training.loop.private import Private, check_private, outputs_of_each, per_sample
from mmedge.training.objectives import Supervised
from tests.training.loop.test_fit import CONTRACT, Net, same, split

PRIVATE = Train(
    epochs=3,
    batch_size=16,
    learning_rate=0.02,
    views=2,
    ema=0.5,
    accumulate=2,
    privacy=Privacy(epsilon=8.0, delta=1e-4),
)
MODEL = Model(encoders={"series": Encoder(widths=(4,))}, embedding=4, hidden=4)


def network(contract=CONTRACT, model=MODEL):
    torch.manual_seed(0)
    return load.build(model, contract)


def training(train=PRIVATE, noise=None):
    samples = split("train", 160, 0)
    return Training(CONTRACT, samples, split("validation", 60, 1), train, np.arange(160), 0, 0, noise)


def fitted(state, train=PRIVATE, progress=None):
    module = network()
    found = fit(
        module,
        Supervised(CONTRACT, train),
        training(train),
        state=state,
        task="training",
        progress=progress or Silent(),
    )
    return module, found


def test_each_sample_has_the_gradient_that_it_has_alone():
    contract = Contract(
        task="classification",
        modalities={
            "picture": ArraySpec(kind="array", shape=(1, 8, 8)),
            "words": TextSpec(kind="text", length=5, tokens=9, fitted=None),
            "row": ArraySpec(kind="array", shape=(3,)),
        },
        labels=("a", "b", "c"),
    )
    model = Model(norm="group", dropout=0.0, token_dropout=0.0, embedding=4, hidden=4)
    module = network(contract, model).train()
    rng = np.random.default_rng(0)
    inputs = {
        "picture": torch.from_numpy(rng.normal(size=(4, 1, 8, 8)).astype(np.float32)),
        "words": torch.from_numpy(rng.integers(0, 9, (4, 5))),
        "row": torch.from_numpy(rng.normal(size=(4, 3)).astype(np.float32)),
    }
    present = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [True, True, False]])
    targets = torch.tensor([0, 2, -1, 1])
    objective = Supervised(contract, PRIVATE)

    def batch(rows):
        return Batch(
            np.arange(4)[rows],
            0,
            {name: x[rows] for name, x in inputs.items()},
            present[rows],
            {contract.output: targets[rows]},
        )

    weights = dict(module.named_parameters())
    each = per_sample(weights, 4)
    loss = objective(lambda **given: outputs_of_each(module, each, given), batch(slice(None))) * 4
    found = torch.autograd.grad(loss, list(each.values()), materialize_grads=True)
    for row in range(4):
        module.zero_grad()
        objective(module, batch(slice(row, row + 1))).backward()
        for (name, weight), gradient in zip(weights.items(), found):
            alone = torch.zeros_like(weight) if weight.grad is None else weight.grad
            torch.testing.assert_close(gradient[row], alone, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "task", [name for name in losses.LOSSES if not (tasks.TASKS[name].AMONG or tasks.TASKS[name].CODES)]
)
def test_a_batchs_loss_is_the_mean_of_its_samples_losses(task):
    """So that no sample's part depends on the others: on how many of them have a label, say."""
    labels = () if task == "regression" else ("a", "b", "c")
    head = Head(task=task, labels=labels, mean=1.0, std=2.0) if task == "regression" else Head(task=task, labels=labels)
    rng = np.random.default_rng(1)
    width = {"regression": 1, "ordinal": 2}.get(task, 3)
    output, teacher = (torch.from_numpy(rng.normal(size=(6, width)).astype(np.float32)) for _ in range(2))
    targets = torch.tensor([0, 1, 2, -1, 1, -1])
    if task == "regression":
        targets = torch.where(targets < 0, torch.nan, targets.float())
    if task == "frames":
        head = Head(task=task, shape=(1, 3), std=2.0)
        targets = torch.where(targets[:, None] < 0, torch.nan, torch.from_numpy(rng.normal(size=(6, 3))).float())
    if task == "multilabel":
        targets = torch.where(targets[:, None] < 0, torch.nan, (torch.arange(3) == targets[:, None]).float())
    of_task = losses.of(head)
    for kind in ("kd", "dkd"):
        loss = Loss(kind=kind)
        whole = of_task.label_loss(output, targets, head, PRIVATE, None)
        taught = of_task.teacher_loss(output, teacher, targets, head, loss)
        alone = [slice(row, row + 1) for row in range(6)]
        torch.testing.assert_close(
            whole, torch.stack([of_task.label_loss(output[r], targets[r], head, PRIVATE, None) for r in alone]).mean()
        )
        torch.testing.assert_close(
            taught,
            torch.stack([of_task.teacher_loss(output[r], teacher[r], targets[r], head, loss) for r in alone]).mean(),
        )


def test_no_sample_moves_the_weights_by_more_than_its_share():
    """Without noise a step of plain descent moves the weights by the clip at most, whatever is drawn."""
    train = PRIVATE.model_copy(
        update={"optimizer": "sgd", "momentum": 0.0, "privacy": Privacy(epsilon=8, delta=1e-4, clip=0.1)}
    )
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    private = Private(module, torch.optim.SGD(module.parameters(), lr=1.0), training(train), 1e-9)
    rows = np.array([7])
    parts = list(batches(training(train), 0, drawn=[rows]))
    assert [len(part.index) for part in parts] in ([0, 1], [1, 0])  # an empty part is no fault
    private.step(Supervised(CONTRACT, train), parts, torch.device("cpu"))
    moved = sum(float(((value - before[name]) ** 2).sum()) for name, value in module.state_dict().items()) ** 0.5
    assert moved == pytest.approx(0.1 / 16, rel=1e-3)  # cut to the clip, over the expected batch


def test_a_step_adds_the_noise_that_was_asked_for():
    module = network()
    before = torch.cat([weight.detach().flatten() for weight in module.parameters()])
    private = Private(module, torch.optim.SGD(module.parameters(), lr=1.0), training(), 3.0)
    for _ in range(40):
        private.step(
            Supervised(CONTRACT, PRIVATE), batches(training(), 0, drawn=[np.array([], np.int64)]), torch.device("cpu")
        )
    moved = torch.cat([weight.detach().flatten() for weight in module.parameters()]) - before
    assert float(moved.std()) == pytest.approx(40**0.5 * 3.0 / 16, rel=0.2)
    assert private.phase == Phase(3.0, 0.1, 40)


def test_samples_are_drawn_by_chance_alone_and_from_no_seed_of_the_recipes():
    module = network()
    one, two = (Private(module, torch.optim.SGD(module.parameters(), lr=1.0), training(), 1.0) for _ in range(2))
    drawn = [list(private.drawn(0)) for private in (one, two)]
    assert len(drawn[0]) == 10 and any(len(a) != len(b) or (a != b).any() for a, b in zip(*drawn))
    assert len({len(rows) for rows in drawn[0]}) > 1
    two.restore({"secret": one._secret, "phase": list(one.phase)})
    assert all((a == b).all() for a, b in zip(one.drawn(3), two.drawn(3)))


def test_an_interrupted_private_training_goes_on_with_its_noise_and_its_account(tmp_path):
    class Stop(Silent):
        def step(self, task, done, total, status=""):
            if done >= 20:  # in the third epoch
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "a.safetensors", progress=Stop())
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    (one, first), (two, second) = fitted(tmp_path / "a.safetensors"), fitted(tmp_path / "b.safetensors")
    assert same(one, two)
    assert first.private == second.private and first.private.steps == 30
    assert epsilon_of([first.private], 1e-4) <= 8.0
    assert not same(one, fitted(tmp_path / "c.safetensors")[0])  # another secret


def test_the_noise_keeps_the_budget_and_no_more_of_it_is_left_than_a_hundredth():
    noise = noise_for(PRIVATE, 160, 30, 6, "distill.train.privacy")
    assert 0.98 * 8.0 <= epsilon_of([Phase(noise, 0.1, 30)] * 6, 1e-4) <= 8.0
    assert epsilon_of([], 1e-4) == 0


def test_a_budget_that_cannot_be_kept_says_what_it_would_need():
    train = PRIVATE.model_copy(update={"privacy": Privacy(epsilon=0.2, delta=1e-4)})
    with pytest.raises(
        UsageError, match=r"epsilon 0.2 .* cannot be kept over 3,000 steps of 0.1 of the samples"
    ) as told:
        noise_for(train, 160, 500, 6, "distill.train.privacy")
    assert told.value.where == "distill.train.privacy"
    least = float(told.value.todo.split()[5])
    enough = train.model_copy(update={"privacy": Privacy(epsilon=least, delta=1e-4)})
    assert 14 < noise_for(enough, 160, 500, 6, "") <= 16
    steps = int(told.value.todo.split(" steps")[0].split()[-1].replace(",", ""))
    assert noise_for(train, 160, steps, 1, "") <= 16
    assert "fewer of the 6 trainings" in told.value.todo
    with pytest.raises(UsageError, match="delta 0.01 promises nothing of 160 samples"):
        noise_for(train.model_copy(update={"privacy": Privacy(epsilon=1, delta=0.01)}), 160, 10, 1, "")


def test_what_mixes_samples_is_refused_by_its_name():
    with pytest.raises(UsageError, match=r"layers.2 \(BatchNorm1d\) mixes the samples"):
        check_private(Net(), CONTRACT, "distill.model")

    class Branching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(12, 3)

        def forward(self, present, series):
            x = self.layer(series.flatten(1))
            return {"logits": x * 2 if x.sum() > 0 else x}

    with pytest.raises(UsageError, match="one sample's gradient cannot be taken"):
        check_private(Branching(), CONTRACT, "distill.model")


def test_without_opacus_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opacus.accountants", None)
    with pytest.raises(MissingDependency, match=r"needs opacus") as told:
        accounting.require_opacus("distill.train.privacy")
    assert "mmedge[privacy]" in told.value.todo
