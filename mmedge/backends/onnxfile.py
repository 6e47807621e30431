"""Reading the structure of an ONNX file without the ``onnx`` package, which a device does not have."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmedge.artifact import hash_json, sha256_of
from mmedge.errors import MmedgeError

# How the file ends that names the engines of which one is made.
PARTS = ".parts.json"


@dataclass(frozen=True)
class Node:
    """A node of an ONNX graph."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_nodes(file: Path) -> list[Node]:
    """The nodes of an ONNX file, in order, read from the protobuf itself.

    Field numbers are those of onnx.proto: ModelProto.graph = 7, GraphProto.node = 1, NodeProto.input = 1, output = 2,
    name = 3, op_type = 4. Raises MmedgeError for a file that is no protobuf.
    """
    data = memoryview(file.read_bytes())
    nodes = []
    try:
        for graph in (body for field, body in _fields(data) if field == 7):
            for node in (body for field, body in _fields(graph) if field == 1):
                parts: dict[int, list[str]] = {1: [], 2: [], 3: [""], 4: [""]}
                for field, body in _fields(node):
                    if field in parts:
                        parts[field].append(str(body, "utf-8"))
                nodes.append(Node(parts[3][-1], parts[4][-1], tuple(parts[1]), tuple(parts[2])))
    except (IndexError, UnicodeDecodeError, ValueError) as error:
        raise MmedgeError("the file is not an ONNX graph", where=str(file)) from error
    return nodes


def named(file: Path) -> bytes | None:
    """An ONNX file's content with a name of its own for every node; None where the file has them already.

    What profiles a graph tells of its nodes by their names, and graphs that PyTorch did not write often have none.
    Raises MmedgeError for a file that is no graph.
    """
    names = [node.name for node in read_nodes(file)]
    if len({*names, ""}) > len(names):
        return None
    out, known = bytearray(), set[bytes]()
    for field, body in _fields(memoryview(file.read_bytes()), skipped=out):
        content = bytearray()
        for number, (of, part) in enumerate(_fields(body, skipped=content) if field == 7 else ()):
            if of == 1:
                says = dict(_fields(part))
                name = bytes(says.get(3, b""))
                if not name or name in known:
                    name = bytes(says.get(4, b"")) + b"_unnamed_%d" % number
                    part = memoryview(bytes(part) + _field(3, name))  # the last of a field counts
                known.add(name)
            content += _field(of, part)
        out += _field(field, content if field == 7 else body)
    return bytes(out)


def _field(number: int, body: bytes | bytearray | memoryview) -> bytes:
    """A length-delimited field as it stands in a message."""
    return _encoded(number << 3 | 2) + _encoded(len(body)) + body


def _encoded(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def files_of(file: Path) -> list[Path]:
    """A model's file, and what it keeps its weights in beside itself (ONNX external data, OpenVINO's .bin)."""
    try:
        names = beside(file)
    except (MmedgeError, OSError):  # no graph, or not there: who opens it tells so
        names = set()
    return [file, *(file.parent / name for name in sorted(names))]


def size_bytes(file: Path) -> int:
    """Of a model, its weights in other files included."""
    return sum(one.stat().st_size for one in files_of(file) if one.is_file())


def content_sha256(file: Path) -> str:
    """Of a model, its weights in other files included: of one hash, two models are the same."""
    return hash_json([sha256_of(one) for one in files_of(file) if one.is_file()])


def beside(file: Path) -> set[str]:
    """Names of the files that a model's file says its weights are in, relative to its folder: opening it reads them.

    Raises MmedgeError for an .onnx file that is no graph.
    """
    if file.name.endswith(PARTS):
        names = [str(name) for name in json.loads(file.read_text(encoding="utf-8"))["files"]]
        return {other for name in names for other in (name, *beside(file.with_name(name)))}
    if file.suffix == ".xml":
        return {file.with_suffix(".bin").name}
    if file.suffix.lower() != ".onnx":
        return set()
    found: set[str] = set()
    try:
        _collect(memoryview(file.read_bytes()), "model", found)
    except (IndexError, KeyError, ValueError) as error:
        raise MmedgeError("the file is not an ONNX graph", where=str(file)) from error
    return found


# Where a message of onnx.proto holds, however deep, tensors: {message: {field: the message in it}}. Graphs stand in
# attributes of nodes too, and tensors in them, in functions and in what is for training.
_HOLDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}


def _collect(data: memoryview, message: str, found: set[str]) -> None:
    """Add the files that the tensors of a message say they are in: TensorProto.external_data = 13, of entries key = 1,
    value = 2."""
    todo = [(data, message)]
    while todo:
        data, message = todo.pop()
        for field, body in _fields(data):
            if message == "tensor" and field == 13:
                entry = dict(_fields(body))
                if bytes(entry.get(1, b"")) == b"location":
                    found.add(str(entry[2], "utf-8"))
            elif field in (holds := _HOLDS.get(message, {})):
                todo.append((body, holds[field]))


def _fields(data: memoryview, skipped: bytearray | None = None) -> Iterator[tuple[int, memoryview]]:
    """(number, bytes) of a message's length-delimited fields; the others are skipped, or copied to ``skipped``."""
    at = 0
    while at < len(data):
        begins = at
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 5:
                at += 4
            case 2:
                size, at = _varint(data, at)
                if at + size > len(data):
                    raise ValueError("a field ends after its message")
                yield tag >> 3, data[at : at + size]
                at += size
            case kind:
                raise ValueError(f"wire type {kind}")
        if skipped is not None and tag & 7 != 2:
            skipped += data[begins:at]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number is too long")


def metadata(file: Path) -> dict[str, str]:
    """An ONNX file's own metadata (ModelProto.metadata_props = 14, of entries key = 1, value = 2); none of what is no graph.

    What stands between is not read: weights take most of a file.
    """
    found = {}
    try:
        with file.open("rb") as stream:
            while head := stream.read(20):
                begins = stream.tell() - len(head)
                tag, at = _varint(memoryview(head), 0)
                size, at = _varint(memoryview(head), at)
                if tag & 7 not in (0, 2):
                    return {}
                stream.seek(begins + at)
                if tag >> 3 == 14:
                    entry = dict(_fields(memoryview(stream.read(size))))
                    found[str(entry[1], "utf-8")] = str(entry.get(2, b""), "utf-8")
                elif tag & 7 == 2:
                    stream.seek(begins + at + size)
    except (IndexError, KeyError, ValueError, OSError):  # no graph: who opens it tells so
        return {}
    return found


def parted(file: Path, outputs: Collection[str]) -> tuple[bytes, bytes]:
    """The graph that makes all outputs but ``outputs``, and the one that makes those; what both need stands in both.

    GraphProto.initializer = 5, input = 11, output = 12, of values name = 1; TensorProto.name = 8. Metadata and what is known
    of shapes between (value_info = 13, quantization_annotation = 14) are left out. Raises MmedgeError for no graph.
    """
    nodes = read_nodes(file)
    made = {name: number for number, node in enumerate(nodes) for name in node.outputs}
    data = memoryview(file.read_bytes())
    (graph,) = (body for field, body in _fields(data) if field == 7)
    wanted = [str(dict(_fields(body))[1], "utf-8") for field, body in _fields(graph) if field == 12]
    parts = []
    for ends in ([name for name in wanted if name not in outputs], [name for name in wanted if name in outputs]):
        needed, kept, waiting = set(ends), set[int](), list(ends)
        while waiting:
            number = made.get(waiting.pop())
            if number is not None and number not in kept:
                kept.add(number)
                new = {name for name in nodes[number].inputs if name not in needed}
                needed |= new
                waiting += new
        parts.append(_part(data, kept, needed, set(ends)))
    return parts[0], parts[1]


def _part(data: memoryview, nodes: set[int], needed: set[str], outputs: set[str]) -> bytes:
    """A model with those nodes, by their numbers, and the initializers and inputs that are ``needed``."""
    out = bytearray()
    for field, body in _fields(data, skipped=out):
        if field == 7:
            number, content = 0, bytearray()
            for of, part in _fields(body, skipped=content):
                named = {5: 8, 11: 1, 12: 1}.get(of)
                if named is not None:
                    name = str(dict(_fields(part)).get(named, b""), "utf-8")
                    kept = name in (outputs if of == 12 else needed)
                else:
                    kept = number in nodes if of == 1 else of not in (13, 14)
                    number += of == 1
                content += _field(of, part) if kept else b""
            out += _field(7, content)
        elif field != 14:
            out += _field(field, body)
    return bytes(out)
