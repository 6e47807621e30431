"""A preprocessed input as a small picture: what the model was given, not the file that it came from."""

from __future__ import annotations

import base64
import io

import numpy as np

from mmedge.spec import ModalitySpec

# The longer side, in pixels.
_SIDE = 112


def picture(spec: ModalitySpec, tensor: np.ndarray) -> str | None:
    """A data URI of an image, of a spectrogram (low bands below) or of a sensor's channels; None of what has no picture.

    ``tensor``: [*spec.shape]. Its values are spread over all shades, so that a dark picture shows too.
    """
    planes = planes_of(spec, tensor)
    return None if planes is None else data_uri(_shades(planes))


def planes_of(spec: ModalitySpec, tensor: np.ndarray) -> np.ndarray | None:
    """float [H, W, 1 or 3] as it lies on the page; None where a tensor [*spec.shape] is no picture."""
    if tensor.ndim == 4:  # a video's frames, one beside the other
        tensor = np.concatenate(list(tensor), axis=-1)
    if spec.kind in ("text", "tabular", "points") or tensor.ndim not in (2, 3):
        return None
    planes = np.moveaxis(tensor, 0, -1) if tensor.ndim == 3 else tensor[:, :, None]
    if planes.shape[-1] not in (1, 3):
        return None
    return planes[::-1] if spec.kind == "audio" else planes


def _shades(planes: np.ndarray) -> np.ndarray:
    """uint8 [H, W, C]."""
    low, high = float(planes.min()), float(planes.max())
    return np.asarray(255 * (planes - low) / max(high - low, 1e-12)).round().astype(np.uint8)


def data_uri(pixels: np.ndarray) -> str:
    """A PNG of uint8 [H, W, 1 or 3], made smaller, or larger by whole steps, to fit the page."""
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    scale = _SIDE / max(image.size)
    size = [max(1, round(side * (scale if scale < 1 else max(1, int(scale))))) for side in image.size]
    resized = image.resize((size[0], size[1]), Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
    stream = io.BytesIO()
    resized.save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
