"""Texts: tokens and back, what is cut and refused, figures against the libraries' own and against those worked out by hand."""

import builtins

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from mmedge.tasks import Target, generation, texts
from mmedge.tasks.head import Texts

CAPTIONS = ["a red bus", "a smiling cat", "woman running", "zebra"]
TARGET = Target(task="generation", text=Texts(length=6, vocabulary=300))
HEAD = generation.head(CAPTIONS * 3, TARGET)
END = HEAD.decoding.end


def output_of(written, head=HEAD):
    """What a network gives that writes these texts."""
    tokens = generation.targets(written, head, TARGET)
    return np.concatenate([np.full((len(tokens), 1), -1.5), tokens], axis=1).astype(np.float32)


def kinds(cells):
    return [(found.severity, found.kind, found.row) for found in generation.faults(cells, TARGET)]


def test_texts_come_back_from_their_tokens_whatever_the_script_and_unknown_ones_are_told_apart():
    given = [*CAPTIONS, "Ein ROTER Bus", "自転車", "naïve 🚲", None]
    head = generation.head(CAPTIONS, target := Target(task="generation", text=Texts(length=40)))
    tokens = generation.targets(given, head, target)
    assert tokens.shape == (8, 41) and generation.width(head) == 42
    assert generation.known(tokens).tolist() == [True] * 7 + [False]
    assert generation.written(tokens[:7], head) == [*CAPTIONS, "ein roter bus", "自転車", "naïve 🚲"]
    assert not generation.known(generation.hidden(tokens, np.array([0, 2])))[[0, 2]].any()


def test_a_text_longer_than_the_limit_is_cut_and_check_counts_it():
    tokens = generation.targets(["a red bus and a smiling cat and a zebra"], HEAD, TARGET)
    assert tokens[0, 6] == END and (tokens[0, :6] > 0).all()
    assert "a red bus and a smiling cat and a zebra".startswith(generation.written(tokens, HEAD)[0])
    cells = {"train": CAPTIONS * 3, "test": ["zebra", "a red bus and a smiling cat and a zebra"]}
    assert kinds(cells) == [("warning", "long-text", 1)]
    (found,) = generation.faults(cells, TARGET)
    assert "1 of 2 test texts are longer than 6 tokens" in found.what and "data.text.length" in found.todo


def test_a_blank_text_is_refused_by_its_row():
    assert kinds({"train": [*CAPTIONS * 3, "  "], "test": CAPTIONS}) == [("error", "blank-text", 12)]


def test_the_metric_is_rouge_l_and_of_texts_of_one_word_the_share_that_is_right():
    wanted = generation.targets(["a red bus", "zebra"], HEAD, TARGET)
    # "a bus" has two of three words in order: recall 2/3, precision 1.
    assert generation.score(output_of(["a bus", "zebra"]), wanted, HEAD) == pytest.approx((0.8 + 1) / 2)
    assert generation.score(output_of(["bus red a", "cat"]), wanted, HEAD) == pytest.approx((1 / 3 + 0) / 2)


def test_further_figures_are_those_of_the_libraries_over_the_corpus_and_errors_those_counted_by_hand():
    written, wanted = ["a bus", "a smiling cat", "zebra zebra"], ["a red bus", "a smiling cat", "zebra"]
    found = generation.others(output_of(written), generation.targets(wanted, HEAD, TARGET), HEAD)
    assert found["bleu"] == pytest.approx(BLEU(effective_order=True).corpus_score(written, [wanted]).score / 100)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(written, [wanted]).score / 100)
    assert found["wer"] == pytest.approx(2 / 7)  # "red" is missing, a "zebra" too many, of 7 words
    assert found["cer"] == pytest.approx((4 + 6) / (9 + 13 + 5))
    assert found["exact_match"] == pytest.approx(1 / 3) and found["ended"] == 1
    assert set(found) | {"rouge_l"} == set(generation.FIGURES)


def test_without_the_libraries_their_figures_are_absent(monkeypatch):
    real = builtins.__import__

    def blocked(name, *rest):
        if name.partition(".")[0] in ("sacrebleu", "jiwer"):
            raise ImportError(name)
        return real(name, *rest)

    for function in (texts._sacrebleu, texts._jiwer):
        function.cache_clear()
    monkeypatch.setattr(builtins, "__import__", blocked)
    assert texts.figures(["a"], ["a"]) == {}
    for function in (texts._sacrebleu, texts._jiwer):
        function.cache_clear()


def test_a_prediction_has_its_text_its_score_and_whether_it_came_to_an_end():
    row = output_of(["a red bus"])
    endless = row.copy()
    endless[:, 1:] = endless[0, 1]
    first, second = generation.predictions(np.concatenate([row, endless]), HEAD)
    assert first.record() == {"text": "a red bus", "score": -1.5, "ended": True}
    assert second.text == "a a a a a a a" and not second.ended
    assert generation.others(endless, generation.targets(["zebra"], HEAD, TARGET), HEAD)["ended"] == 0


def test_who_has_seen_nothing_writes_the_commonest_text():
    targets = generation.targets(["zebra", "a red bus", "zebra", None], HEAD, TARGET)
    assert generation.written(generation.majority(targets, HEAD, 2)[:, 1:], HEAD) == ["zebra", "zebra"]


def test_the_tokens_that_are_equal_are_what_two_outputs_share():
    ours, theirs = output_of(["a red bus", "zebra"]), output_of(["a red bus", "a smiling cat"])
    assert generation.same(ours, ours) == 1 and 0 < generation.same(ours, theirs) < 1
