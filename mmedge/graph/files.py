"""Reading an ONNX file whole, with the weights that lie beside it, wherever links lead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmedge.errors import MmedgeError, first_line


def loaded(source: Path) -> Any:
    """The model with all its weights in it.

    What it names beside itself may be a link, as in the Hugging Face cache, which onnx itself does not follow. Raises
    MmedgeError where the file is no model, or names weights that are not there or outside its folder.
    """
    import onnx

    if not source.is_file():
        raise MmedgeError("the ONNX file does not exist", where=str(source))
    try:
        model = onnx.load(source, load_external_data=False)
    except Exception as error:  # onnx raises protobuf's, its own and OS errors
        raise MmedgeError(f"the ONNX file cannot be read: {first_line(error)}", where=str(source)) from error
    for tensor in tensors_of(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _take_in(tensor, source)
    return model


def tensors_of(graph: Any) -> Iterator[Any]:
    """All stored tensors of a graph, and of the graphs inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from tensors_of(inner)


def _take_in(tensor: Any, source: Path) -> None:
    """Replace a tensor's place in another file by the bytes that stand there, in place."""
    import onnx

    place = {entry.key: entry.value for entry in tensor.external_data}
    name = Path(place.get("location", ""))
    if name.is_absolute() or ".." in name.parts:
        raise MmedgeError(f"the ONNX file names weights outside its folder: {name}", where=str(source))
    # A link to the model alone: what it names lies beside the file that the link leads to.
    file = next(
        (folder / name for folder in (source.parent, source.resolve().parent) if (folder / name).is_file()), None
    )
    if file is None:
        raise MmedgeError(
            f"the graph keeps its weights in {name}, which is not beside it",
            where=str(source),
            todo="copy the file of external data beside the graph, under the name that it was written with",
        )
    with file.open("rb") as stream:
        stream.seek(int(place.get("offset", 0)))
        content = stream.read(int(place["length"])) if "length" in place else stream.read()
    if "length" in place and len(content) != int(place["length"]):
        raise MmedgeError(f"the weights of {tensor.name!r} end too early", where=str(file), todo="copy the file again")
    tensor.raw_data, tensor.data_location = content, onnx.TensorProto.DEFAULT
    del tensor.external_data[:]
