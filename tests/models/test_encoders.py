"""The built-in encoders: one a kind of modality, each from its tensor to one embedding."""

from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter

from mmedge.errors import UsageError
from mmedge.models.encoders import ENCODERS, encoder_of
from mmedge.recipe import Encoder, Model
from mmedge.spec import ModalitySpec

KINDS = {
    "image": {"height": 9, "width": 6, "channels": 3},
    "audio": {"sample_rate": 8000, "mels": 8, "frames": 7},
    "text": {"length": 12, "tokens": 40},
    "tabular": {"columns": ["a", "b"]},
    "sensor": {"channels": 3, "length": 20},
    "array": {"shape": [2, 5]},
    "points": {"points": 20},
    "video": {"frames": 3, "height": 9, "width": 6},
}


def test_every_kind_of_modality_has_an_encoder():
    specs = get_args(get_args(ModalitySpec)[0])
    assert set(ENCODERS) == set(KINDS) == {get_args(spec.model_fields["kind"].annotation)[0] for spec in specs}


@pytest.mark.parametrize(("kind", "of"), [(kind, of) for kind in KINDS for of in ENCODERS[kind]])
def test_an_encoder_takes_its_kinds_tensor_to_one_embedding(kind, of):
    shape = {"shape": [2, 8, 8]} if kind == "array" and of != "plain" else {}
    spec = TypeAdapter(ModalitySpec).validate_python({"kind": kind, **KINDS[kind], **shape})
    encoder = encoder_of("it", spec, Encoder(kind=of, widths=(6, 8), depth=2, patch=4), Model(embedding=5)).eval()
    x = torch.zeros(2, *spec.shape, dtype=getattr(torch, spec.dtype))
    assert encoder(x).shape == (2, 5) and torch.isfinite(encoder(x)).all()


def test_an_array_that_is_a_map_gets_convolutions():
    spec = TypeAdapter(ModalitySpec).validate_python({"kind": "array", "shape": [2, 8, 8]})
    encoder = encoder_of("it", spec, Encoder(), Model())
    assert any(isinstance(layer, torch.nn.Conv2d) for layer in encoder.modules())


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        (Encoder(kind="resent"), r"encoders.it.kind: no 'resent' of array \(did you mean 'resnet'"),
        (Encoder(kind="resnet"), r"a resnet takes maps \[channels, height, width\], and it is \[2, 5\]"),
    ],
)
def test_an_encoder_that_the_modality_cannot_have_is_told(encoder, told):
    spec = TypeAdapter(ModalitySpec).validate_python({"kind": "array", **KINDS["array"]})
    with pytest.raises(UsageError, match=told):
        encoder_of("it", spec, encoder, Model())


def test_a_gru_reads_spectrograms_in_their_order_and_no_waveform():
    spec = TypeAdapter(ModalitySpec).validate_python({"kind": "audio", "sample_rate": 8000, "mels": 8, "frames": 32})
    torch.manual_seed(0)
    encoder = encoder_of("it", spec, Encoder(kind="gru", widths=(6, 8)), Model(embedding=5)).eval()
    sound = torch.randn(1, *spec.shape)
    assert not torch.allclose(encoder(sound), encoder(sound.flip(3)))
    wave = spec.model_copy(update={"features": "waveform"})
    with pytest.raises(UsageError, match="bands over frames, and this is a waveform"):
        encoder_of("it", wave, Encoder(kind="gru"), Model())


def test_heads_that_do_not_divide_the_width_are_told():
    with pytest.raises(UsageError, match="a transformer of 30 channels cannot have 4 heads"):
        reader(Encoder(kind="transformer", widths=(30,)))


@pytest.mark.parametrize("of", ["gru", "transformer"])
def test_padding_says_nothing_and_of_nothing_else_the_output_is_finite(of):
    encoder = reader(Encoder(kind=of, widths=(8,), depth=2), dropout=0.0).eval()
    text = torch.tensor([[3, 5, 7] + [0] * 9])
    torch.testing.assert_close(encoder(text[:, :3]), encoder(text))
    assert torch.isfinite(encoder(torch.zeros(1, 12, dtype=torch.int64))).all()


def reader(encoder=None, **section):
    torch.manual_seed(0)
    spec = TypeAdapter(ModalitySpec).validate_python({"kind": "text", **KINDS["text"]})
    return encoder_of("it", spec, encoder or Encoder(widths=(6, 8)), Model(embedding=5, **section))


def test_a_word_that_was_seldom_seen_says_next_to_nothing():
    # torch's own N(0, 1) would be noise for good where a token is rare: texts lost to a bag of words by 12 points of R2.
    assert 0.01 < reader().embed.weight.std() < 0.03


def test_a_text_is_the_bag_of_its_words_beside_the_most_that_is_found_anywhere():
    encoder = reader(dropout=0.0).eval()
    words = torch.tensor([[3, 5, 3, 5, 0, 0, 0, 0, 0, 0, 0, 0]])
    pooled = []
    encoder.project.register_forward_pre_hook(lambda layer, x: pooled.append(x[0]))
    encoder(words)
    table = encoder.embed.weight
    torch.testing.assert_close(pooled[0][0, :6], (2 * table[3] + 2 * table[5]) / 2)  # four words: over the root of 4
    maps = encoder.features(encoder.embed(words).transpose(1, 2) * (words != 0).float().unsqueeze(1))
    torch.testing.assert_close(pooled[0][0, 6:], maps[0, :, :4].amax(dim=1))


def test_the_words_learn_by_the_bag_alone_and_the_convolutions_on_top():
    encoder = reader(dropout=0.0, token_dropout=0.0).train()
    pooled = []
    encoder.project.register_forward_pre_hook(lambda layer, x: pooled.append(x[0]))
    encoder(torch.tensor([[3, 5, 3, 5] + [0] * 8, [3, 3] + [0] * 10]))
    pooled[0][:, 6:].sum().backward(retain_graph=True)
    assert not encoder.embed.weight.grad.any() and encoder.features[0].weight.grad.any()
    pooled[0][1, :6].sum().backward()
    torch.testing.assert_close(encoder.embed.weight.grad[3], torch.full((6,), 2 / 2**0.5))
    assert not encoder.embed.weight.grad[5].any()


def test_a_share_of_the_words_is_not_seen_in_training_and_every_one_afterwards():
    encoder = reader(token_dropout=0.5, dropout=0.0)
    words, seen = torch.full((400, 12), 7), []
    encoder.project.register_forward_pre_hook(lambda layer, x: seen.append(x[0][:, :6] / encoder.embed.weight[7]))
    encoder.train()(words)
    encoder.eval()(words)
    # n equal words over the root of n are the root of n words.
    counts = (seen[0][:, 0] ** 2).round()
    torch.testing.assert_close(seen[0] ** 2, counts[:, None].expand(400, 6), rtol=1e-3, atol=1e-3)
    assert 5.5 < counts.mean() < 6.5 and counts.min() < 4 and counts.max() > 8
    torch.testing.assert_close(seen[1] ** 2, torch.full((400, 6), 12.0), rtol=1e-3, atol=1e-3)


def test_the_mean_of_convolutions_is_what_an_artifact_of_version_0_1_has():
    encoder = reader(text_pooling="mean").eval()
    assert encoder.project[1].in_features == 8
    assert encoder(torch.zeros(2, 12, dtype=torch.int64)).shape == (2, 5)


def test_neither_padding_nor_the_order_of_points_changes_what_is_said_of_a_cloud():
    spec = TypeAdapter(ModalitySpec).validate_python({"kind": "points", "points": 20})
    encoder = encoder_of("it", spec, Encoder(widths=(6, 8)), Model(embedding=5)).eval()
    x = torch.randn(2, 4, 20)
    x[:, -1] = torch.arange(20) < 12
    other = x[:, :, torch.randperm(20)]
    other[:, :3] += 9 * (other[:, 3:] == 0)
    assert torch.allclose(encoder(x), encoder(other), atol=1e-6) and encoder(x).any()


def test_padding_of_clouds_is_in_no_statistics_of_a_norm():
    spec = TypeAdapter(ModalitySpec).validate_python({"kind": "points", "points": 20})
    padded, bare = (encoder_of("it", spec, Encoder(widths=(6, 8)), Model(embedding=5, dropout=0.0)) for _ in range(2))
    bare.load_state_dict(padded.state_dict())
    x = torch.randn(2, 4, 20)
    x[:, -1] = 1
    x[:, :, 12:] = 0
    out = padded.train()(x)
    torch.testing.assert_close(out, bare.train()(x[:, :, :12]))
    for name, value in bare.state_dict().items():
        torch.testing.assert_close(padded.state_dict()[name], value, msg=name)
    out.sum().backward()
    assert torch.isfinite(padded.features[0].weight.grad).all() and padded.features[0].weight.grad.any()
    alone = torch.zeros(1, 4, 20)
    alone[:, :, 0] = 1
    assert torch.isfinite(padded(alone)).all()  # one point has no variance


@pytest.mark.parametrize(("joined", "same"), [("mean", True), ("attention", False)])
def test_attention_over_frames_knows_their_order_and_their_mean_does_not(joined, same):
    spec = TypeAdapter(ModalitySpec).validate_python({"kind": "video", "frames": 3, "height": 8, "width": 8})
    torch.manual_seed(0)
    encoder = encoder_of("it", spec, Encoder(widths=(8,), frames=joined), Model(embedding=8)).eval()
    with torch.no_grad():
        if not same:
            encoder.joined.places.mul_(50)
    x = torch.randn(2, 3, 3, 8, 8)
    assert torch.allclose(encoder(x), encoder(x.flip(1)), atol=1e-5) == same
