"""What an interrupted training needs to go on as if nothing had happened, in one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from mmedge.artifact import replacing
from mmedge.models.state import unshared
from mmedge.training.loop import processes
from mmedge.training.loop.optimizer import Average
from mmedge.training.loop.private import Private
from mmedge.training.loop.sharding import divided, whole


@dataclass
class State:
    """All that changes from epoch to epoch.

    ``parts``: the module and what is trained along; ``best``: the weights of the best epoch; ``history``: one record an
    epoch; ``private``: what a private training has of its own; ``still``: names of the parts' parameters that never change, which
    are not written; ``sharded``: each process holds parts of it all. Everything else is a function of the recipe, the seed and
    the epoch.
    """

    parts: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    average: Average | None = None
    private: Private | None = None
    still: frozenset[str] = frozenset()
    best: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    sharded: bool = False

    def store(self, path: Path) -> None:
        """Write the state beside ``path`` and rename: a kill leaves the old one or the new one.

        Of several processes the main one writes; where they hold parts, all of them have to call this.
        """
        if not (processes.is_main() or self.sharded):
            return
        from safetensors.torch import save_file

        groups: dict[str, dict[str, Tensor]] = {
            "parts": {name: x for name, x in self.parts.state_dict().items() if name not in self.still},
            "best": self.best,
        }
        if self.average:
            groups["average"] = self.average.values
        names = self._moved
        groups["optimizer"] = {
            f"{moment}.{names[index]}": torch.as_tensor(value)
            for index, moments in self.optimizer.state_dict()["state"].items()
            for moment, value in moments.items()
            if value is not None  # SGD without momentum
        }
        tensors = {
            f"{group}.{name}": whole(value) for group, values in groups.items() for name, value in values.items()
        }
        if not processes.is_main():
            return
        described = {
            "history": json.dumps(self.history),
            "scaler": json.dumps(self.scaler.state_dict() if self.scaler else {}),
            "updates": json.dumps(self.average.updates if self.average else 0),
            "private": self.private.stored() if self.private else "null",
        }
        with replacing(path) as temporary:
            save_file(unshared(tensors), temporary, described)

    @property
    def _moved(self) -> list[str]:
        """The names of the parameters that the optimizer moves, in its order, which is another where a network is in parts."""
        names = {id(weight): name for name, weight in self.parts.named_parameters()}
        return [names[id(weight)] for group in self.optimizer.param_groups for weight in group["params"]]

    def restore(self, path: Path) -> None:
        """Take the state of ``path`` on, where there is such a file."""
        from safetensors import safe_open

        if not path.is_file():
            return
        with safe_open(path, "pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (safe_open is no dict)
            described = {name: json.loads(value) for name, value in stored.metadata().items()}

        def taken(group: str) -> dict[str, Tensor]:
            return {n.removeprefix(f"{group}."): v for n, v in tensors.items() if n.startswith(f"{group}.")}

        live = self.parts.state_dict()
        self.parts.load_state_dict(divided(taken("parts"), live), strict=not self.still)
        moments: dict[int, dict[str, Tensor]] = {}
        names, trained = self._moved, dict(self.parts.named_parameters())
        for name, value in taken("optimizer").items():
            moment, _, of = name.partition(".")
            moments.setdefault(names.index(of), {}).update(divided({moment: value}, {moment: trained[of]}))
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        if self.scaler:
            self.scaler.load_state_dict(described["scaler"])
        if self.average:
            self.average.load(taken("average"), described["updates"])
        if self.private:
            self.private.restore(described["private"])
        module = {name.removeprefix("0."): x for name, x in live.items()}
        self.best, self.history = divided(taken("best"), module), described["history"]
