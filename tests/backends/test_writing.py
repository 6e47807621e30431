"""The loop around a step: greedy and with beams against all texts that there are, its limit, and what a file says of it."""

import itertools
import json

import numpy as np
import pytest

from mmedge.backends import writing
from mmedge.backends.session import Session, TensorInfo
from mmedge.backends.writing import Writing
from mmedge.errors import MmedgeError

END, STEPS, VOCABULARY = 3, 3, 4
INFO = TensorInfo(np.dtype(np.float32), (None, 2))


def sessions(odds):
    """A beginning that takes ``x``, and a step by a table of odds [rows' kind, token before, place, token], log probabilities."""

    def begin(inputs):
        rows = len(inputs["x"])
        return {"text.start.kind": inputs["x"].astype(np.int64), "text.start.at": np.zeros(rows, np.int64)}

    def step(inputs):
        kind, at, token = (inputs[f"text.{name}"] for name in ("state.kind", "state.at", "token"))
        return {"text.scores": odds[kind, token, at], "text.next.at": at + 1}

    takes = dict.fromkeys(("text.token", "text.state.kind", "text.state.at"), INFO)
    return Session(begin, {"x": INFO}, None), Session(step, takes, None)


def odds(seed):
    drawn = np.random.default_rng(seed).normal(size=(2, VOCABULARY, STEPS, VOCABULARY)) * 2
    return (drawn - np.log(np.exp(drawn).sum(axis=3, keepdims=True))).astype(np.float32)


def best_of_all(table, kind):
    """The likeliest of all texts, up to an end or the limit."""
    found = {}
    for text in itertools.product(range(1, VOCABULARY), repeat=STEPS):
        whole = text[: text.index(END) + 1] if END in text else text
        before = (END, *whole[:-1])
        found[whole] = sum(table[kind, b, at, t] for at, (b, t) in enumerate(zip(before, whole)))
    return max(found.items(), key=lambda entry: entry[1])


@pytest.mark.parametrize("seed", range(5))
def test_enough_beams_find_the_likeliest_of_all_texts_for_each_row_of_a_batch(seed):
    table = odds(seed)
    how = Writing(head="text", end=END, steps=STEPS, beams=16)
    found = writing.session(*sessions(table), how)({"x": np.array([0, 1, 0])})["text"]
    for row, kind in zip(found, (0, 1, 0)):
        text, score = best_of_all(table, kind)
        assert row[1 : 1 + len(text)].astype(int).tolist() == list(text) and not row[1 + len(text) :].any()
        assert row[0] == pytest.approx(score, rel=1e-5)


def test_one_beam_takes_the_likeliest_token_each_time_and_padding_is_never_written():
    table = odds(7)
    table[:, :, :, 0] = 5  # whatever a network makes of it
    how = Writing(head="text", end=END, steps=STEPS)
    (row,) = writing.session(*sessions(table), how)({"x": np.array([1])})["text"][:, 1:].astype(int)
    token, wanted = END, []
    for at in range(STEPS):
        token = 1 + int(table[1, token, at, 1:].argmax())
        wanted.append(token)
        if token == END:
            break
    assert row[: len(wanted)].tolist() == wanted and not row[len(wanted) :].any()


def test_a_text_that_does_not_end_is_stopped_at_the_limit():
    table = odds(0)
    table[..., END] = -50
    found = writing.session(*sessions(table), Writing(head="text", end=END, steps=STEPS, beams=2))({"x": np.array([0])})
    assert (found["text"][:, 1:] > 0).all() and END not in found["text"][:, 1:]


def test_two_that_write_are_compared_behind_the_same_beginnings():
    ours, theirs = odds(1), odds(1)
    theirs[..., 1] += 0.01  # enough to part two texts at a token that is as likely as another
    how = Writing(head="text", end=END, steps=STEPS)
    first, second = writing.along(*(writing.session(*sessions(table), how) for table in (ours, theirs)), "text")
    given = {"x": np.array([0, 1])}
    one, other = first(given)["text.likelihoods"], second(given)["text.likelihoods"]
    assert one.shape == (2, STEPS) and np.abs(one - other).max() <= 0.0101


def test_a_network_and_its_graph_part_at_tokens_that_are_as_likely_and_are_still_alike():
    ours = odds(1)
    ours[..., 1] = ours[..., 2]
    theirs, how = ours.copy(), Writing(head="text", end=END, steps=STEPS)
    theirs[..., 2] += 1e-6
    network, graph = (writing.session(*sessions(table), how) for table in (ours, theirs))
    given = {"x": np.array([0, 1])}
    assert not np.array_equal(network(given)["text"][:, 1:], graph(given)["text"][:, 1:])
    first, second = writing.behind(network.run, graph, "text")
    one, other = first(given), second(given)
    assert one.keys() == other.keys() == {"text.likelihood"}
    assert (
        one["text.likelihood"].shape == (2, 1)
        and np.abs(one["text.likelihood"] - other["text.likelihood"]).max() < 1e-5
    )
    np.testing.assert_array_equal(one["text.likelihood"], network(given)["text"][:, :1])
    wrong = writing.session(*sessions(odds(2)), how)
    first, second = writing.behind(network.run, wrong, "text")
    assert np.abs(first(given)["text.likelihood"] - second(given)["text.likelihood"]).max() > 0.1


def test_what_a_file_says_of_its_writing_is_refused_where_it_is_not_understood(tmp_path):
    file = tmp_path / "engine.parts.json"
    file.write_text(json.dumps({"head": "text", "end": 3, "steps": 10**9, "files": ["a", "b"]}))
    with pytest.raises(MmedgeError, match="how its texts are written is not understood"):
        writing.described(file)
