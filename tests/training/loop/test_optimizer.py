"""How weights move: groups, rates and the running average, each against a computation of its own."""

import math

import pytest
import torch
from torch import nn

from mmedge.recipe import Train
from mmedge.training.loop.optimizer import Average, optimizer_of, set_rate


def test_matrices_decay_and_biases_norms_and_frozen_parameters_do_not():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net[2].weight.requires_grad_(False)
    decayed, left = optimizer_of(net, Train(weight_decay=0.3)).param_groups
    assert [p is net[0].weight for p in decayed["params"]] == [True] and decayed["weight_decay"] == 0.3
    assert len(left["params"]) == 4 and left["weight_decay"] == 0


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_moves_a_weight_as_the_formula_of_its_momentum_says(nesterov):
    p = nn.Parameter(torch.ones(2, 2))
    train = Train(optimizer="sgd", momentum=0.8, nesterov=nesterov, weight_decay=0.0, learning_rate=0.1)
    optimizer = optimizer_of(nn.ParameterList([p]), train)
    weight, velocity = 1.0, 0.0
    for gradient in (1.0, -0.5, 2.0):
        p.grad = torch.full_like(p, gradient)
        optimizer.step()
        velocity = 0.8 * velocity + gradient
        weight -= 0.1 * (gradient + 0.8 * velocity if nesterov else velocity)
    assert p.detach().flatten().tolist() == pytest.approx([weight] * 4)


def test_the_rate_rises_to_its_height_and_falls_as_a_cosine_to_nothing():
    optimizer, train = (
        optimizer_of(nn.Linear(2, 2), Train(learning_rate=0.5, warmup=0.2)),
        Train(learning_rate=0.5, warmup=0.2),
    )
    rates = [set_rate(optimizer, train, step, 50) for step in range(50)]
    assert rates[:10] == pytest.approx([0.05 * (step + 1) for step in range(10)])
    assert rates[10:] == pytest.approx([0.25 * (1 + math.cos(math.pi * step / 40)) for step in range(40)])
    assert all(group["lr"] == rates[-1] for group in optimizer.param_groups)


def test_the_average_follows_weights_and_buffers_with_a_decay_that_rises_to_its_value():
    net = nn.BatchNorm1d(1)
    average = Average(net, decay=0.5)
    expected = 1.0
    for n in range(1, 21):
        with torch.no_grad():
            net.weight.fill_(n)
            net.running_mean.fill_(-n)
            net.num_batches_tracked.fill_(n)
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    assert average.values["weight"].item() == pytest.approx(expected, rel=1e-5)
    assert average.values["running_mean"].item() < -15 and average.values["num_batches_tracked"] == 20
    with average.swapped_in():
        assert net.weight.item() == pytest.approx(expected, rel=1e-5)
    assert net.weight.item() == 20
