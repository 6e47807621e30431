"""What a network makes of samples before and after fusion, laid out in two dimensions."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from torch import nn

from mmedge.data.store.samples import Samples
from mmedge.measure.places import Key, Place, Places, taken_at, watched
from mmedge.measure.quality import batched_outputs, module_run

# Fewer have no neighbours to speak of.
LEAST = 10
FUSION = "fusion"
# Whose labels are compared with a sample's own.
_NEIGHBOURS = 5


def features(module: nn.Module, places: Places, samples: Samples) -> dict[str, np.ndarray]:
    """{modality whose encoder gives them, or ``fusion``: float [n, features]} of any network, as far as it has such places."""
    wanted = {**places.encoders, **({FUSION: places.fusion} if places.fusion else {})}
    at = defaultdict[Key, list[tuple[str, Place]]](list)
    for name, place in wanted.items():
        at[place.layer, place.call].append((name, place))
    found = defaultdict[str, list[np.ndarray]](list)
    run = module_run(module)

    def keep(key: Key, layer: nn.Module, given: Any, output: Any) -> None:
        for name, place in at.get(key, ()):
            value = taken_at(place, given, output)
            if value is not None:
                found[name].append(value.float().flatten(1).cpu().numpy())

    def watching(inputs: Any) -> Any:
        with watched(module, keep):  # calls are counted anew in every batch
            return run(inputs)

    for _ in batched_outputs(watching, samples, samples.present):
        pass
    return {name: np.concatenate(found[name]) for name in wanted if found[name]}


def laid_out(rows: np.ndarray, seed: int) -> np.ndarray:
    """float [n, 2] of float [n, features] by t-SNE (van der Maaten & Hinton 2008). At least ``LEAST`` rows."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(rows) - 1) / 3)
    return np.asarray(TSNE(2, perplexity=perplexity, random_state=seed, init="pca").fit_transform(rows))


def alike(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float [n]: the share of each row's nearest five others, by its features [n, features], that have its label."""
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(rows) - 1)).fit(rows).kneighbors(return_distance=False)
    return np.asarray((labels[near] == labels[:, None]).mean(axis=1))
