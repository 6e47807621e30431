"""Clouds of points: read, check, sample or pad to a fixed number, scale."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mmedge.errors import MmedgeError, did_you_mean
from mmedge.preprocess.values import divisors, numbers, opened, where
from mmedge.spec import PointsSpec

# Larger clouds make no input of an edge model: a slip in a header would fill the memory.
MOST_POINTS = 20_000_000
# Values of a point in a file that does not say how many it has: KITTI's x, y, z and intensity.
_KITTI = 4
_MOST_VALUES = 64
_MOST_HEADER = 1 << 16
# Distances that are computed for the farthest points of a cloud: some four seconds.
_DISTANCES = 1 << 29
_PLY = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
}
_PLY |= {"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4"}
_PLY |= {"float64": "f8"}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


def features(spec: PointsSpec, value: Any, name: str) -> np.ndarray:
    """float32 [channels + 1, points]; see ``PointsSpec``. ``value``: a path, bytes of a file, or an array [n, channels or more].

    What a file is follows from its first bytes: a .npy array, a .ply file, or else float32 values in little-endian order.
    """
    cloud = (
        read(spec, value, name)
        if isinstance(value, (str, Path, bytes, bytearray))
        else numbers(value, name, np.float64)
    )
    if cloud.ndim != 2 or not spec.channels <= cloud.shape[1] <= _MOST_VALUES:
        turned = cloud.ndim == 2 and cloud.shape[1] > _MOST_VALUES
        raise MmedgeError(
            f"{name} has shape {list(cloud.shape)}, and a cloud is [points, {spec.channels} or more]",
            where=where(value),
            todo="give the array transposed" if turned else "leave 'extras' out, or save a row a point",
        )
    if len(cloud) == 0:
        raise MmedgeError(
            f"the {name} holds no point", where=where(value), todo="leave the modality out of that sample"
        )
    if len(cloud) > MOST_POINTS:
        raise _too_many(len(cloud), name, value)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is told as such
        values = cloud[:, : spec.channels].astype(np.float32)
    if not (finite := np.isfinite(values).all(axis=1)).all():
        raise MmedgeError(
            f"{np.count_nonzero(~finite)} of the {name}'s {len(cloud)} points hold NaN or infinite values",
            where=where(value),
            todo="save the cloud without the points that the sensor did not measure",
        )
    # As they came until they are centred: a coordinate of a map has seven digits before its point.
    places = cloud[:, :3].astype(np.float64)
    chosen = _sampled(spec, places)
    out = np.zeros(spec.shape, np.float32)
    out[:-1, : len(chosen)], out[-1, : len(chosen)] = values[chosen].T, 1
    if spec.scale == "sphere":
        centre = places.mean(axis=0)
        radius = np.sqrt(((places - centre) ** 2).sum(axis=1).max())
        out[:3, : len(chosen)] = ((places[chosen] - centre) / (radius or 1.0)).T
    return out


def normalise(spec: PointsSpec, values: np.ndarray) -> np.ndarray:
    """(values - mean) / std where the mask, the last row of a sample or of each of a batch, says that a point is; 0 elsewhere."""
    out = np.array(values, np.float32)
    if spec.mean is not None and spec.std is not None:
        mean, std = (np.asarray(each, np.float32).reshape(-1, 1) for each in (spec.mean, spec.std))
        out[..., :-1, :] = (out[..., :-1, :] - mean) / std * out[..., -1:, :]
    return out


def fit_statistics(spec: PointsSpec, clouds: Iterable[np.ndarray]) -> PointsSpec:
    """The spec with mean and deviation of each value over all points; 0 and 1 of places that a sphere has scaled."""
    count, total, squares = 0.0, np.zeros(spec.channels), np.zeros(spec.channels)
    for cloud in clouds:
        there = cloud[:-1, cloud[-1] > 0].astype(np.float64)
        count += there.shape[1]
        total, squares = total + there.sum(axis=1), squares + (there**2).sum(axis=1)
    if count == 0:
        return spec
    mean = total / count
    std = divisors(mean, np.sqrt(np.maximum(squares / count - mean**2, 0)))
    if spec.scale == "sphere":
        mean[:3], std[:3] = 0, 1
    return spec.model_copy(update={"mean": tuple(mean.tolist()), "std": tuple(std.tolist())})


def _sampled(spec: PointsSpec, places: np.ndarray) -> np.ndarray:
    """int64: the points that are kept, in the order of the file; all where they are no more than fit."""
    if len(places) <= spec.points:
        return np.arange(len(places))
    if spec.sampling == "random":
        return np.sort(_drawn(len(places), spec.points))
    # Each point that is kept is held against all: of a huge cloud a part is looked at, so that it ends.
    looked_at = _drawn(len(places), max(spec.points, _DISTANCES // spec.points))
    return np.sort(looked_at[_farthest(places[looked_at], spec.points)])


def _drawn(count: int, wanted: int) -> np.ndarray:
    """int64: so many of ``count`` numbers by chance, always the same ones; all, in their order, where they are no more."""
    return np.random.default_rng(0).permutation(count)[:wanted] if wanted < count else np.arange(count)


def _farthest(places: np.ndarray, count: int) -> np.ndarray:
    """Farthest point sampling (Eldar et al. 1997), from the point that is farthest from the mean on. ``places``: float64 [n, 3]."""
    if count == len(places):
        return np.arange(count)
    centred = places - places.mean(axis=0)
    nearest = (centred**2).sum(axis=1)
    chosen = np.empty(count, np.int64)
    for number in range(count):
        chosen[number] = at = int(nearest.argmax())
        apart = ((centred - centred[at]) ** 2).sum(axis=1)
        nearest = apart if number == 0 else np.minimum(nearest, apart)
    return chosen


def read(spec: PointsSpec, value: str | Path | bytes | bytearray, name: str) -> np.ndarray:
    """[n, channels or more] of a file, float32 or, where it holds larger numbers, float64."""
    with opened(value, name) as stream:
        try:
            magic = stream.read(6)
            stream.seek(0)
            if magic == b"\x93NUMPY":
                return _npy(stream, name, value)
            return _ply(spec, stream, name, value) if magic[:3] == b"ply" else _bin(spec, stream, name, value)
        except MemoryError as error:
            what = f"the {name} is larger than memory, or its header is damaged"
            raise MmedgeError(what, where=where(value)) from error
        except (ValueError, OSError, EOFError, UnicodeDecodeError) as error:
            raise MmedgeError(f"the {name} is not a cloud that can be read: {error}", where=where(value)) from error


def _npy(stream: BinaryIO, name: str, value: Any) -> np.ndarray:
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not unpickled")
    if shape and max(shape) > MOST_POINTS:
        raise _too_many(max(shape), name, value)
    stream.seek(0)
    return numbers(np.load(stream, allow_pickle=False), name, np.float64)


def _bin(spec: PointsSpec, stream: BinaryIO, name: str, value: Any) -> np.ndarray:
    """Float32 values, one point after another, as KITTI has them (Geiger et al. 2013)."""
    size, width = stream.seek(0, os.SEEK_END), spec.values or _KITTI
    if width < spec.channels:
        raise ValueError(
            f"'extras' name more values than the {width} of its points: say how many there are in 'values'"
        )
    if size % (4 * width):
        raise ValueError(
            f"its {size} bytes are no whole number of points of {width} float32 values: it is cut off, or 'values' differs"
        )
    if size // (4 * width) > MOST_POINTS:
        raise _too_many(size // (4 * width), name, value)
    stream.seek(0)
    return np.frombuffer(stream.read(), "<f4").reshape(-1, width)


def _ply(spec: PointsSpec, stream: BinaryIO, name: str, value: Any) -> np.ndarray:
    """The properties x, y, z and ``extras`` of a PLY file's vertices (Turk 1994)."""
    order, count, properties = _ply_header(stream)
    if count > MOST_POINTS:
        raise _too_many(count, name, value)
    wanted, known = ("x", "y", "z", *spec.extras), [column for column, _ in properties]
    for column in wanted:
        if column not in known:
            raise ValueError(
                f"its points have no {column!r}{did_you_mean(column, known)}, they have {', '.join(known)}"
            )
    if order:
        layout = np.dtype([(column, order + kind) for column, kind in properties])
        body = stream.read(count * layout.itemsize)
        if len(body) < count * layout.itemsize:
            raise ValueError(f"it is cut off: {len(body) // layout.itemsize} of {count} points are there")
        table = np.frombuffer(body, layout)
        holds = np.result_type(np.float32, *(layout[column] for column in wanted))
        return np.stack([table[column].astype(holds) for column in wanted], axis=1)
    places = [known.index(column) for column in wanted]
    rows = [line.split() for line in islice(stream, count)]
    if len(rows) < count or any(len(row) < len(known) for row in rows):
        raise ValueError(f"it is cut off: {len(rows)} of {count} points are there, or one lacks values")
    return np.array([[float(row[place]) for place in places] for row in rows], np.float64).reshape(-1, len(places))


def _ply_header(stream: BinaryIO) -> tuple[str, int, list[tuple[str, str]]]:
    """(the order of bytes, "" of text; how many vertices; their properties and numpy's types); ValueError of another file."""
    order, count, properties, element, before = "", -1, [], "", False
    for raw in iter(lambda: stream.readline(_MOST_HEADER), b""):
        words = raw.decode("ascii").split()
        if words[:1] == ["end_header"]:
            break
        if stream.tell() > _MOST_HEADER:
            raise ValueError("its header has no end")
        match words:
            case ["format", form, *_]:
                if form not in _ORDERS:
                    raise ValueError(f"its format {form!r} is none of {', '.join(_ORDERS)}")
                order = _ORDERS[form]
            case ["element", element, number]:
                before = before or (count < 0 and element != "vertex")
                count = int(number) if element == "vertex" else count
            case ["property", kind, column] if element == "vertex":
                if kind not in _PLY:
                    raise ValueError(f"its property {column!r} has the unknown type {kind!r}")
                properties.append((column, _PLY[kind]))
            case ["property", "list", *_] if element == "vertex":
                raise ValueError("its points hold lists")
    else:
        raise ValueError("its header has no end")
    if count < 0 or before:
        raise ValueError("its first element is not 'vertex'")
    return order, count, properties


def _too_many(count: int, name: str, value: Any) -> MmedgeError:
    return MmedgeError(
        f"the {name} has {count:,} points, more than {MOST_POINTS:,}", where=where(value), todo="thin it out first"
    )
