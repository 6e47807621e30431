"""The files of a folder that ``save_pretrained`` wrote: its config, what it says of pooling, and transformers, which reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from mmedge import hub
from mmedge.errors import MissingDependency, UsageError, first_line
from mmedge.recipe import Pretrained

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
# What says how pictures are preprocessed; a processor of two modalities has it in a section of its own file.
IMAGES, _PROCESSOR, _SECTION = "preprocessor_config.json", "processor_config.json", "image_processor"
# Of a config's values, that its pictures have blue first (MobileViT's).
BLUE_FIRST = "blue_first"
# The words of a classifier that is left out, and the precision of a file: here all is float32.
_LEFT_OUT = ("id2label", "label2id", "dtype", "torch_dtype")
AGAIN = "get the whole folder again"


def folder_of(encoder: Pretrained) -> Path:
    """The folder of an encoder's files; of a name on the Hub the local copy, downloaded where there is none."""
    assert encoder.hf is not None
    folder = hub.folder_of(encoder.hf)
    if not (folder / CONFIG).is_file():
        raise UsageError(
            f"the folder has no {CONFIG}" if folder.is_dir() else "the folder does not exist",
            where=str(folder),
            todo="name one that save_pretrained wrote, or a model's name on the Hub, owner/name",
        )
    return folder


def described(encoder: Pretrained) -> Pretrained:
    """The section with the folder's architecture and pooling in it, so that its model is built again without the folder."""
    if encoder.config is not None:
        return encoder
    pooling = pooling_of(encoder)
    return encoder.model_copy(update={"config": config_of(encoder), "pooling": pooling})


def config_of(encoder: Pretrained) -> dict[str, JsonValue]:
    """The architecture: what travels with the model, else the folder's."""
    if encoder.config is not None:
        return encoder.config
    folder = folder_of(encoder)
    config: dict[str, JsonValue] = read(folder / CONFIG)
    if not isinstance(config.get("model_type"), str):
        raise UsageError(f"{CONFIG} says no model_type", where=str(folder), todo=AGAIN)
    kept = {name: value for name, value in config.items() if name not in _LEFT_OUT}
    flipped = images_of(folder).get("do_flip_channel_order")
    return {**kept, BLUE_FIRST: True} if flipped else kept


def pooling_of(encoder: Pretrained) -> str:
    """What the folder of a sentence encoder says of its pooling, else the mean."""
    if encoder.pooling is not None or encoder.hf is None or encoder.config is not None:
        return encoder.pooling or "mean"
    said = read(folder_of(encoder) / "1_Pooling" / CONFIG)
    return "cls" if said.get("pooling_mode_cls_token") else "mean"


def read(path: Path) -> dict[str, Any]:
    """What a JSON file says; {} where there is none. Raises UsageError for one that holds no mapping."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path.name} is no JSON: {first_line(error)}", where=str(path), todo=AGAIN) from error
    if not isinstance(found, dict):
        raise UsageError(f"{path.name} holds no mapping", where=str(path), todo=AGAIN)
    return found


def images_of(folder: Path) -> dict[str, Any]:
    """How pictures are preprocessed; {} where no file says so."""
    said: dict[str, Any] = read(folder / IMAGES) or read(folder / _PROCESSOR).get(_SECTION) or {}
    return said


def transformers_library() -> Any:
    """The library, silent. Raises MissingDependency without it."""
    try:
        import transformers
    except ImportError as error:
        raise MissingDependency(
            f"encoders of Hugging Face need transformers: {first_line(error)}", todo="pip install 'mmedge[hub]'"
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
