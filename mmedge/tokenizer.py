"""Tokenizers, as texts that come in and texts that go out share them: trained the same way each time, kept as JSON.

They are Hugging Face's; what they raise, panics included, becomes MmedgeError.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from typing import Any, Protocol

from mmedge.errors import MissingDependency, MmedgeError, first_line

PAD, UNKNOWN = "[PAD]", "[UNK]"
# A piece must occur this often to get an id of its own: no single person's word becomes part of the bundle.
_LEAST_COUNT = 2
# How many times as long a tokenizer's replacements may make a text.
_MOST_GROWTH = 64
# Characters that are looked at of a text, at least, and by each token that is kept.
_FEWEST_READ, _READ_A_TOKEN = 1 << 16, 64


class Wanted(Protocol):
    """What a tokenizer is trained by: its kind, its size, and how texts are brought to one form first."""

    @property
    def tokenizer(self) -> str: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def normalization(self) -> str: ...
    @property
    def lowercase(self) -> bool: ...


def read(length: int) -> int:
    """Characters that are looked at: what follows has no place among ``length`` tokens, and would take seconds and memory."""
    return max(_FEWEST_READ, _READ_A_TOKEN * length)


def trained(spec: Wanted, texts: list[str]) -> Any:
    """A tokenizer of these texts, the same for the same texts."""
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


def encoded(fitted: str, length: int | None, text: str, name: str) -> list[int]:
    """The token ids of a text, cut at ``length``; ``name``: what it is called where it has none."""
    try:
        ids: list[int] = opened(fitted, length).encode(text if length is None else text[: read(length)]).ids
    except (UnicodeEncodeError, TypeError) as error:  # which one, depends on the version of tokenizers
        raise MmedgeError(
            f"{name} is not valid Unicode: it holds half a surrogate pair", todo="decode it with errors='replace'"
        ) from error
    except BaseException as error:  # tokenizers raises bare Exception, and a panic of its own that is none
        raise failed(error) from error
    return ids


@lru_cache(maxsize=16)
def opened(fitted: str, length: int | None) -> Any:
    """The tokenizer in a spec, which cuts texts at ``length`` tokens; None: it does not."""
    _check_installed()
    from tokenizers import Tokenizer

    refuse_growth(json.loads(fitted))
    try:
        found = Tokenizer.from_str(fitted)
        if length is not None:
            found.enable_truncation(length)
        found.no_padding()  # to whatever length: ours is done by who asks
    except BaseException as error:  # as in ``encoded``
        raise failed(error) from error
    return found


def failed(error: BaseException) -> BaseException:
    """What is raised for an error of tokenizers: one that mmedge or the user raised stays."""
    if isinstance(error, (MmedgeError, KeyboardInterrupt, SystemExit, MemoryError)):
        return error
    return MmedgeError(f"the tokenizer fails: {first_line(error)}", todo="export the bundle again, or get it again")


def refuse_growth(tokenizer: Any) -> None:
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


def compact(text: str) -> str:
    """JSON without blanks."""
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
