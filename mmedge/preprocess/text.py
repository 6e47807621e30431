"""Texts: Unicode normalization and token ids, by a Hugging Face tokenizer that travels in the spec as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import MissingDependency, MmedgeError, first_line
from mmedge.preprocess.values import existing
from mmedge.spec import TextSpec

PAD, UNKNOWN = "[PAD]", "[UNK]"
# A piece must occur this often to get an id of its own: no single person's word becomes part of the bundle.
_LEAST_COUNT = 2
# How many times as long a tokenizer's replacements may make a text.
_MOST_GROWTH = 64
# Characters that are looked at of a text, at least, and by each token that is kept.
_FEWEST_READ, _READ_A_TOKEN = 1 << 16, 64


def features(spec: TextSpec, value: Any, name: str) -> np.ndarray:
    """int64 [length] token ids of a str, cut at ``length`` and filled with ``spec.pad``."""
    if not isinstance(value, str):
        raise MmedgeError(f"{name} must be a text (str), not {type(value).__name__}")
    if spec.fitted is None:
        raise MmedgeError(f"{name} has no tokenizer yet: it is fitted on the training split")
    try:
        ids = _tokenizer(spec.fitted, spec.length).encode(value[: _read(spec)]).ids
    except (UnicodeEncodeError, TypeError) as error:  # which one, depends on the version of tokenizers
        raise MmedgeError(
            f"{name} is not valid Unicode: it holds half a surrogate pair", todo="decode it with errors='replace'"
        ) from error
    except BaseException as error:  # tokenizers raises bare Exception, and a panic of its own that is none
        raise _failed(error) from error
    if not ids:
        raise MmedgeError(f"{name} has no token: it is empty or only blanks")
    out = np.full(spec.length, spec.pad, np.int64)
    out[: len(ids)] = ids[: spec.length]
    return out


def _read(spec: TextSpec) -> int:
    """Characters that are looked at: what follows has no place among ``length`` tokens, and would take seconds and memory."""
    return max(_FEWEST_READ, _READ_A_TOKEN * spec.length)


def stand_in(spec: TextSpec) -> np.ndarray:
    """int64 [length]: an absent text to a network that knows no presence: one token, the rest padding.

    All padding would leave attention nothing to attend to, and give NaN in some networks and garbage in others. The
    token is the first that the tokenizer puts around an empty text ([CLS], a start), else one that is no padding.
    """
    around = _tokenizer(spec.fitted, spec.length).encode("").ids if spec.fitted is not None else []
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
    read = sorted(text[: _read(spec)] for text in texts)  # sorted: the same texts give the same tokenizer
    trained = _trained(spec, read)
    return spec.model_copy(
        update={
            "fitted": _compact(trained.to_str()),
            "tokens": trained.get_vocab_size(),
            "pad": trained.token_to_id(PAD),
        }
    )


def _taken(spec: TextSpec) -> TextSpec:
    from tokenizers import Tokenizer

    assert spec.tokenizer_file is not None
    path = existing(spec.tokenizer_file, "tokenizer")
    try:
        _refuse_growth(json.loads(Path(path).read_text(encoding="utf-8")))
        tokenizer = Tokenizer.from_file(str(path))
    except BaseException as error:  # as in ``features``
        failed = _failed(error)
        if not isinstance(failed, MmedgeError):
            raise
        raise MmedgeError(f"the tokenizer cannot be read: {first_line(error)}", where=str(path)) from error
    tokenizer.no_truncation()
    padding = tokenizer.padding
    tokenizer.no_padding()
    named = [tokenizer.token_to_id(token) for token in (PAD, "<pad>", "<|pad|>", "<PAD>")]
    pad = padding["pad_id"] if padding else next((index for index in named if index is not None), spec.pad)
    tokens = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    # The tokenizer itself travels; where it was read from is nobody's business.
    taken = {"fitted": _compact(tokenizer.to_str()), "tokens": tokens, "pad": pad, "tokenizer_file": None}
    return spec.model_copy(update=taken)


def _trained(spec: TextSpec, texts: list[str]) -> Any:
    _check_installed()
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    special = [PAD, UNKNOWN]
    common: dict[str, Any] = {"vocab_size": spec.vocabulary, "special_tokens": special, "show_progress": False}
    steps: list[Any] = [getattr(normalizers, spec.normalization)()] if spec.normalization != "none" else []
    steps += [normalizers.Lowercase()] if spec.lowercase else []
    steps += [normalizers.Strip()]
    match spec.tokenizer:
        case "bpe":
            tokenizer = Tokenizer(models.BPE(unk_token=None))
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
            tokenizer.decoder = decoders.ByteLevel()
            trainer: Any = trainers.BpeTrainer(
                **common, min_frequency=_LEAST_COUNT, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
            )
        case "wordpiece":
            tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
            steps += [normalizers.BertNormalizer(True, True, False, False)]
            tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            tokenizer.decoder = decoders.WordPiece()
            common["special_tokens"] = [*special, *_letters(steps, tokenizer.pre_tokenizer, texts)]
            trainer = trainers.WordPieceTrainer(**common, min_frequency=_LEAST_COUNT)
        case _:
            tokenizer = Tokenizer(models.Unigram())
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
            tokenizer.decoder = decoders.Metaspace()
            trainer = trainers.UnigramTrainer(**common, unk_token=UNKNOWN)
    tokenizer.normalizer = normalizers.Sequence(steps)
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the merges' order must not depend on threads
    try:
        tokenizer.train_from_iterator(texts, trainer)
    except Exception as error:  # tokenizers raises bare Exception
        raise MmedgeError(
            f"no tokenizer can be trained: {error}", todo="choose tokenizer: bpe, or another vocabulary"
        ) from error
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
    return Tokenizer.from_str(_ordered(tokenizer.to_str()))


def _letters(steps: list[Any], pre_tokenizer: Any, texts: list[str]) -> list[str]:
    """Every letter that begins a word, and every one inside a word as WordPiece spells it, in order.

    The trainer numbers them by a hash table's order, another in every process, and what it joins first hangs on the
    numbers: it takes those that it is given as special tokens in their order.
    """
    from tokenizers import normalizers

    normalizer = normalizers.Sequence(steps)
    words = {
        word for text in texts for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text)) if word
    }
    return [*sorted({word[0] for word in words}), *sorted({f"##{letter}" for word in words for letter in word[1:]})]


def _ordered(trained: str) -> str:
    """A trained tokenizer as JSON, the same for the same texts."""
    state = json.loads(trained)
    # The letters were given as special tokens for their order alone.
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in (PAD, UNKNOWN)]
    if state["model"]["type"] == "Unigram":
        special, pieces = state["model"]["vocab"][:2], state["model"]["vocab"][2:]
        state["model"]["vocab"] = [*special, *_ranked({piece: round(score, 9) for piece, score in pieces})]
    return json.dumps(state, ensure_ascii=False)


def _ranked(scores: dict[str, float]) -> list[list[Any]]:
    """[piece, score] of Unigram, the likeliest first.

    Letters that no piece is likely enough for get the lowest score and steps of .0001 above it, dealt by a hash table's
    order: here by the alphabet's.
    """
    lowest = min(scores.values(), default=0.0)
    above = {piece: (score - lowest) / 1e-4 for piece, score in scores.items() if len(piece) == 1}
    dealt = [piece for piece, steps in above.items() if steps < len(above) and abs(steps - round(steps)) < 1e-3]
    scores = scores | dict(zip(sorted(dealt), sorted(scores[piece] for piece in dealt)))
    return [[piece, score] for piece, score in sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))]


@lru_cache(maxsize=16)
def _tokenizer(fitted: str, length: int) -> Any:
    _check_installed()
    from tokenizers import Tokenizer

    _refuse_growth(json.loads(fitted))
    try:
        tokenizer = Tokenizer.from_str(fitted)
        tokenizer.enable_truncation(length)
        tokenizer.no_padding()  # to whatever length: ours is done by ``features``
    except BaseException as error:  # as in ``features``
        raise _failed(error) from error
    return tokenizer


def _failed(error: BaseException) -> BaseException:
    if isinstance(error, (MmedgeError, KeyboardInterrupt, SystemExit, MemoryError)):
        return error
    return MmedgeError(f"the tokenizer fails: {first_line(error)}", todo="export the bundle again, or get it again")


def _refuse_growth(tokenizer: Any) -> None:
    """Raise MmedgeError for a tokenizer whose replacements make a text many times as long: it would fill the memory."""
    growth = 1.0
    waiting = [tokenizer.get("normalizer") if isinstance(tokenizer, dict) else None]
    while waiting:
        step = waiting.pop()
        if not isinstance(step, dict):
            continue
        waiting += step.get("normalizers") or []
        if step.get("type") == "Replace":
            content, pattern = str(step.get("content")), step.get("pattern")
            exact = pattern.get("String") if isinstance(pattern, dict) else None
            # A regular expression may match between any two characters.
            growth *= max(1.0, len(content) / len(exact) if exact else 1 + len(content))
    if growth > _MOST_GROWTH:
        raise MmedgeError(
            f"the tokenizer makes a text up to {growth:.3g} times as long", todo="export the bundle again with another"
        )


def _check_installed() -> None:
    try:
        import tokenizers  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            "texts need tokenizers, which is not installed", todo="pip install tokenizers"
        ) from error


def _compact(text: str) -> str:
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
