"""Images: decode, stand upright, cut out, scale to 8 bits, resize."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import MmedgeError
from mmedge.preprocess.values import opened, refuse_masked, where
from mmedge.spec import ImageSpec

# A picture of more pixels than this is taken for a decompression bomb, not for an input of an edge model.
MAX_PIXELS = 50_000_000
# What is opened: Pillow knows more, some of it by programs of others that it starts.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
# What modes of more than 8 bits begin with, ``I`` and ``I;16``.
DEEP = "I"


def features(spec: ImageSpec, value: Any, name: str) -> np.ndarray:
    """float32 [channels, height, width] in 0 to 1. ``value``: path, bytes or uint8 pixels; with ``spec.box`` a pair
    (that, (left, top, right, bottom)), without the second half the whole image."""
    from PIL import Image, UnidentifiedImageError

    value, box = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    try:
        picture = _in_8_bits(_decoded(value, name), name, value)
        if box is not None:
            picture = picture.crop(_corners(spec, box, picture.size, name, value))
        picture = _middle(picture, spec)
        mode = "L" if spec.channels == 1 else "RGB"
        if picture.mode != mode:  # of the same mode Pillow makes a copy
            picture = picture.convert(mode)
        # First the width, then the height: left to itself, Pillow before 13 does it so and later ones by what is quicker,
        # which is another picture by a level here and there.
        for size in ((spec.width, picture.height), (spec.width, spec.height)):
            if picture.size != size:
                picture = picture.resize(size, Image.Resampling.BILINEAR)
    except UnidentifiedImageError as error:
        raise MmedgeError(
            f"the {name} is not an image that can be read",
            where=where(value),
            todo="give a PNG, JPEG, WebP, TIFF, BMP, GIF or PPM file",
        ) from error
    except Image.DecompressionBombError as error:
        raise MmedgeError(
            f"the {name} is too large: {error}", where=where(value), todo="make it smaller first"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise MmedgeError(
            f"the {name} cannot be decoded: {error}", where=where(value), todo="copy it again, or leave it out"
        ) from error
    array = np.asarray(picture, np.float32) / 255
    return array[None] if spec.channels == 1 else array.transpose(2, 0, 1)


def _decoded(value: Any, name: str) -> Any:
    from PIL import Image

    if isinstance(value, (str, Path, bytes, bytearray)):
        with opened(value, name) as stream:
            picture = Image.open(stream, formats=FORMATS)
            if picture.width * picture.height > MAX_PIXELS:
                raise MmedgeError(
                    f"{name} has {picture.width} x {picture.height} pixels, more than {MAX_PIXELS}",
                    where=where(value),
                )
            picture.load()
            return picture
    if not isinstance(value, np.ndarray) and not hasattr(value, "__array_interface__"):
        raise MmedgeError(
            f"{name} must be a path, the bytes of a file or uint8 pixels [height, width(, 1|3|4)], not {type(value).__name__}"
        )
    refuse_masked(value, name)
    pixels = np.asarray(value)
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        raise MmedgeError(f"{name} must be [height, width] or [height, width, 1|3|4], not {list(pixels.shape)}")
    if pixels.dtype != np.uint8:
        raise MmedgeError(f"{name} must be uint8 pixels of 0 to 255, not {pixels.dtype}")
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def _in_8_bits(picture: Any, name: str, value: Any) -> Any:
    """Upright by its EXIF orientation, 8 bits a channel, without transparency."""
    from PIL import Image, ImageOps

    ImageOps.exif_transpose(picture, in_place=True)  # else a copy is made of one that stands upright
    if picture.mode.startswith(DEEP):  # 16-bit gray: Pillow clips it instead of scaling
        deep = np.asarray(picture)
        if deep.min() < 0 or deep.max() > 65_535:
            raise MmedgeError(
                f"the {name} has pixels of {deep.min()} to {deep.max()}, and those of 16 bits are 0 to 65535",
                where=where(value),
                todo="save it with 8 or 16 bits a channel",
            )
        return Image.fromarray((deep.astype(np.float32) / 257).astype(np.uint8))
    if picture.mode == "F":
        raise MmedgeError(
            f"the {name} has floating-point pixels, whose range is not known",
            where=where(value),
            todo="save it with 8 or 16 bits a channel",
        )
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")  # what lies under transparent pixels is arbitrary: it is covered with white
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, picture)
    return picture


def _corners(spec: ImageSpec, box: Any, size: tuple[int, int], name: str, value: Any) -> tuple[int, int, int, int]:
    try:
        left, top, right, bottom = (float(edge) for edge in box)
        if spec.box and spec.box[2].startswith("+"):
            right += left
        if spec.box and spec.box[3].startswith("+"):
            bottom += top
        corners = (round(left), round(top), round(right), round(bottom))
    except (TypeError, ValueError, OverflowError) as error:
        raise MmedgeError(
            f"the {name}'s box must be four numbers (left, top, right, bottom), not {box!r}", where=where(value)
        ) from error
    if not (0 <= corners[0] < corners[2] <= size[0] and 0 <= corners[1] < corners[3] <= size[1]):
        raise MmedgeError(
            f"the {name}'s box {list(corners)} is empty or reaches out of its {size[0]} x {size[1]} pixels",
            where=where(value),
        )
    return corners


def _middle(picture: Any, spec: ImageSpec) -> Any:
    """What of a picture is seen: all of it, or its middle in the aspect of the tensor, less the margin."""
    (width, height), aspect = picture.size, spec.width / spec.height
    across, down = width, height
    if spec.crop == "center":
        across, down = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
    across, down = max(1, round(across * spec.crop_share)), max(1, round(down * spec.crop_share))
    if (across, down) == picture.size:  # Pillow makes a copy
        return picture
    left, top = (width - across) // 2, (height - down) // 2
    return picture.crop((left, top, left + across, top + down))
