"""What each modality's decision weighs, fitted on validation rows once all else is trained."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mmedge.contract import Contract, subsets
from mmedge.data.store.samples import Samples
from mmedge.measure.quality import predict_module
from mmedge.models.fusion import FusionNet
from mmedge.models.fusions.stacking import Stacked
from mmedge.recipe import Train
from mmedge.training import losses

_ROUNDS = 60


def stack(module: nn.Module, contract: Contract, validation: Samples, train: Train) -> tuple[str, ...]:
    """Fit the weights of every fusion by stacking in ``module`` on all subsets of modalities that the rows have.

    Nothing else of ``module``, which is in evaluation mode, changes. Gives a note for each; none where there is no such
    fusion, or no labelled row.
    """
    nets = [net for net in module.modules() if isinstance(net, FusionNet) and isinstance(net.fusion, Stacked)]
    if not nets or not validation.labelled.any():
        return ()
    labelled = validation.taken(np.flatnonzero(validation.labelled))
    return tuple(_fitted(module, net, contract, labelled, train) for net in nets)


def _fitted(module: nn.Module, net: FusionNet, contract: Contract, samples: Samples, train: Train) -> str:
    fusion = net.fusion
    assert isinstance(fusion, Stacked)
    taken: list[Tensor] = []
    hook = fusion.register_forward_pre_hook(lambda _, features: taken.append(torch.stack(fusion.decisions(*features))))
    try:
        for chosen in subsets(net.modalities):
            predict_module(module, contract, samples, samples.present_of(chosen))
    finally:
        hook.remove()
    own = torch.cat(taken, dim=1)  # [modalities, subsets * rows, hidden]
    times = own.shape[1] // len(samples)
    targets = {name: torch.from_numpy(x).repeat(times, *[1] * (x.ndim - 1)) for name, x in samples.targets.items()}
    # Equal weights, whatever an earlier fit left: one that came to 0 has no gradient.
    logs = torch.full_like(fusion.weights, 1 / len(fusion.weights)).log().requires_grad_()
    search = torch.optim.LBFGS([logs], max_iter=_ROUNDS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        fused, each = (own * logs.exp()[:, None, None]).sum(dim=0), []
        for name, make in net.head_modules().items():
            head, of = contract.heads[name], targets[name]
            output = make(fused, of) if name in contract.written else make(fused)
            each.append(losses.of(head).label_loss(output, of, head, train, None))
        total = torch.stack(each).sum()
        (logs.grad,) = torch.autograd.grad(total, [logs])
        return total

    search.step(loss)
    if torch.isfinite(logs).all():
        fusion.weights.copy_(logs.detach().exp())
    shares = ", ".join(f"{name} {x:.2f}" for name, x in zip(net.modalities, fusion.weights.tolist()))
    return f"what each modality's decision weighs, fitted on {len(samples)} validation samples: {shares}"
