"""What a declared dynamic length must not change: the answer, whether an input is padded or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmedge.data.samples import Samples
from mmedge.errors import MismatchError
from mmedge.measure.quality import Run
from mmedge.runtime.preprocess import trimmed
from mmedge.spec import Contract

# Texts of which the answer at their own length is compared with the padded one's.
_COMPARED = 64


def check_trimmed(run: Run, contract: Contract, samples: Samples, relative: float, graph: Path) -> None:
    """Hold a graph's answers to texts of their own length against those to the padded ones that it was trained with.

    ``relative``: the largest difference, over the largest output. Raises MismatchError.
    """
    for column, (name, spec) in enumerate(contract.modalities.items()):
        rows = np.flatnonzero(samples.present[:, column])[:_COMPARED]
        if spec.shortest is None or not len(rows):
            continue
        inputs = {other: np.array(x[rows]) for other, x in samples.inputs.items()} | {"present": samples.present[rows]}
        expected, shown = run(inputs)[contract.output], np.ones(1, bool)
        for row in range(len(rows)):
            one = {other: x[row : row + 1] for other, x in inputs.items()}
            cut = one | {name: trimmed(spec, one[name], shown)}
            difference = float(np.abs(run(cut)[contract.output] - expected[row]).max())
            if not difference <= relative * max(1.0, float(np.abs(expected).max())):
                raise MismatchError(
                    f"the answer to a text of {cut[name].shape[1]} tokens is another by {difference:.3g} where it is not padded to {spec.shape[-1]}",
                    where=f"{graph}, {name} of {samples.ids[rows[row]]}",
                    todo=f"let the network not look at padding (token {getattr(spec, 'pad', 0)}), or leave out data.modalities.{name}.min_length",
                )
