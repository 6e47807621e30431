"""Features of the samples that have a modality."""

from __future__ import annotations

from torch import Tensor, nn


def encoded(encoder: nn.Module, x: Tensor, present: Tensor) -> Tensor:
    """[batch, embedding]; 0 of samples without it, which are not run: in a norm's statistics they would stand for data.

    ``present``: bool [batch].
    """
    if present.all():
        return encoder(x)  # type: ignore[no-any-return]
    if present.sum() < 2:  # of which a norm has no variance
        return encoder(x) * present[:, None]  # type: ignore[no-any-return]
    found: Tensor = encoder(x[present])
    return found.new_zeros(len(x), found.shape[1]).index_put((present,), found)
