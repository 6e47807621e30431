"""Texts: Unicode normalization and token ids, by a Hugging Face tokenizer that travels in the spec as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mmedge import tokenizer
from mmedge.errors import MmedgeError, first_line
from mmedge.preprocess.values import existing
from mmedge.spec import TextSpec


def features(spec: TextSpec, value: Any, name: str) -> np.ndarray:
    """int64 [length] token ids of a str, cut at ``length`` and filled with ``spec.pad``."""
    if not isinstance(value, str):
        raise MmedgeError(f"{name} must be a text (str), not {type(value).__name__}")
    if spec.fitted is None:
        raise MmedgeError(f"{name} has no tokenizer yet: it is fitted on the training split")
    ids = tokenizer.encoded(spec.fitted, spec.length, value, name)
    if not ids:
        raise MmedgeError(f"{name} has no token: it is empty or only blanks")
    out = np.full(spec.length, spec.pad, np.int64)
    out[: len(ids)] = ids[: spec.length]
    return out


def stand_in(spec: TextSpec) -> np.ndarray:
    """int64 [length]: an absent text to a network that knows no presence: one token, the rest padding.

    All padding would leave attention nothing to attend to, and give NaN in some networks and garbage in others. The
    token is the first that the tokenizer puts around an empty text ([CLS], a start), else one that is no padding.
    """
    around = tokenizer.encoded(spec.fitted, spec.length, "", "") if spec.fitted is not None else []
    out = np.full(spec.length, spec.pad, np.int64)
    out[0] = next((token for token in around if token != spec.pad), 0 if spec.pad else 1)
    return out


def trimmed(spec: TextSpec, ids: np.ndarray, present: np.ndarray) -> np.ndarray:
    """int64 [batch, length] without the padding that all rows of a batch share, where the spec declares a dynamic length.

    ``present``: bool [batch]; what stands in the other rows does not matter.
    """
    if spec.min_length is None:
        return ids
    used = np.flatnonzero((ids[present] != spec.pad).any(axis=0))
    return np.ascontiguousarray(ids[:, : max(spec.min_length, int(used[-1]) + 1 if len(used) else 0)])


def fit(spec: TextSpec, texts: Iterable[str]) -> TextSpec:
    """The spec with its tokenizer: read from ``tokenizer_file``, or trained on ``texts``."""
    if spec.fitted is not None:
        return spec
    if spec.tokenizer_file is not None:
        return _taken(spec)
    # What is never looked at of a text is not learned from: a cell of 50 MB would take a minute and 5 GB.
    read = sorted(
        text[: tokenizer.read(spec.length)] for text in texts
    )  # sorted: the same texts give the same tokenizer
    trained = tokenizer.trained(spec, read)
    return spec.model_copy(
        update={
            "fitted": tokenizer.compact(trained.to_str()),
            "tokens": trained.get_vocab_size(),
            "pad": trained.token_to_id(tokenizer.PAD),
        }
    )


def pad_beside(path: str | Path, found: Any) -> int | None:
    """The id of what ``tokenizer_config.json`` beside the tokenizer ``found`` pads with; None where none says so."""
    beside = Path(path).with_name("tokenizer_config.json")
    if not beside.is_file():
        return None
    try:
        said = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MmedgeError(f"the tokenizer's config is no JSON: {first_line(error)}", where=str(beside)) from error
    token = said.get("pad_token") if isinstance(said, dict) else None
    token = token.get("content") if isinstance(token, dict) else token
    index: int | None = found.token_to_id(token) if isinstance(token, str) else None
    return index


def _pad_of(found: Any, path: str | Path, otherwise: int) -> int:
    """An id for padding that no text has, since what has it is not attended to: GPT-2's 0 is an exclamation mark.

    Not one that the tokenizer puts around every text, which CLIP's folder pads with too.
    """
    around = found.encode("").ids
    named = [found.token_to_id(token) for token in (tokenizer.PAD, "<pad>", "<|pad|>", "<PAD>")]
    special = sorted(index for index, token in found.get_added_tokens_decoder().items() if token.special)
    candidates = [pad_beside(path, found), *named, *special]
    return next((index for index in candidates if index is not None and index not in around), otherwise)


def _taken(spec: TextSpec) -> TextSpec:
    from tokenizers import Tokenizer

    assert spec.tokenizer_file is not None
    path = existing(spec.tokenizer_file, "tokenizer")
    try:
        tokenizer.refuse_growth(json.loads(Path(path).read_text(encoding="utf-8")))
        found = Tokenizer.from_file(str(path))
    except BaseException as error:  # as in ``tokenizer.encoded``
        failed = tokenizer.failed(error)
        if not isinstance(failed, MmedgeError):
            raise
        raise MmedgeError(f"the tokenizer cannot be read: {first_line(error)}", where=str(path)) from error
    found.no_truncation()
    padding = found.padding
    found.no_padding()
    pad = padding["pad_id"] if padding else _pad_of(found, path, spec.pad)
    tokens = max(found.get_vocab(with_added_tokens=True).values()) + 1
    # The tokenizer itself travels; where it was read from is nobody's business.
    taken = {"fitted": tokenizer.compact(found.to_str()), "tokens": tokens, "pad": pad, "tokenizer_file": None}
    return spec.model_copy(update=taken)
