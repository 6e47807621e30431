"""Encoders of a folder beside transformers' own calls of the same folder, on the same input, of families that are called otherwise."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from mmedge import preprocess, tokenizer
from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.models import load
from mmedge.models.encoders import encoder_of
from mmedge.models.pretrained import timm_models
from mmedge.models.pretrained.preprocessing import brought
from mmedge.preprocess import text
from mmedge.recipe import Model, Pretrained
from mmedge.stages.trial import try_export
from tests.heads import CLASSES
from tests.models.pretrained.test_encoders import PICTURE, SMALL, spec_of

READING = {"vocab_size": 60, "max_position_embeddings": 16, **SMALL}
SEEING = {"image_size": 16, "patch_size": 8, **SMALL}
TEXT = spec_of(kind="text", length=8, tokens=10)
IDS = torch.tensor([[2, 4, 3, 0, 0, 0, 0, 0], [2, 4, 5, 6, 3, 0, 0, 0]])
THIN = {"width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320}
WIDE = {"max_length": 32, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8, **SMALL}


def saved(folder, name, kind="Model", **sizes):
    """The network, evaluated, whose folder it is: of random weights that are not all about nothing."""
    import transformers

    torch.manual_seed(0)
    network = getattr(transformers, f"{name}{kind}")(getattr(transformers, f"{name}Config")(**sizes))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn_like(parameter) * 0.2
    network.save_pretrained(folder)
    return network.eval()


def ours(folder, spec, **of):
    return encoder_of("it", spec, Pretrained(hf=folder, **of), Model(embedding=5)).eval().body


def words(folder, special, around, pad_token):
    """A tokenizer of words behind ``special``, and the config that transformers writes beside it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    every = [*special, "!", "red", "apple"]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(every)}, unk_token="!"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(list(special))
    if around:
        ends = [(token, every.index(token)) for token in special if token in around]
        made.post_processor = processors.TemplateProcessing(single=around, special_tokens=ends)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad_token}))
    return made


@pytest.mark.parametrize("name", ["Align", "ChineseCLIP"])
def test_what_is_projected_of_a_text_is_what_the_dual_encoder_itself_projects(tmp_path, name):
    seeing = {"image_size": 32, **THIN} if name == "Align" else SEEING
    whole = saved(tmp_path, name, text_config=READING, vision_config=seeing, projection_dim=8)
    with torch.no_grad():
        theirs = whole.get_text_features(input_ids=IDS, attention_mask=(IDS != 0).long()).pooler_output
        assert torch.allclose(ours(tmp_path, TEXT, pooling="projected")(IDS), theirs, atol=1e-5)


def test_a_text_of_siglip_is_as_long_and_filled_as_it_was_trained_on_and_all_of_it_is_attended_to(tmp_path):
    sizes = {**READING, "max_position_embeddings": 12, "projection_size": 16}
    whole = saved(tmp_path, "Siglip", text_config=sizes, vision_config=SEEING)
    words(tmp_path, ("<pad>", "</s>"), "$A </s>", "</s>")
    spec = brought(Pretrained(hf=tmp_path), spec_of(kind="text", length=8, column="name")).spec
    assert (spec.length, spec.pad, spec.column) == (12, 1, "name")
    ids = torch.from_numpy(text.features(text.fit(spec, ()), "red apple", "it"))[None]
    with torch.no_grad():
        theirs = whole.get_text_features(input_ids=ids).pooler_output
        assert torch.allclose(ours(tmp_path, spec, pooling="projected")(ids), theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("special", "around", "said", "pad"),
    [
        (("<|endoftext|>",), None, "<|endoftext|>", 0),
        (("<unk>", "<|endoftext|>"), None, {"content": "<|endoftext|>"}, 1),
        (("[PAD]", "[CLS]"), "[CLS] $A", None, 0),
        (("[CLS]", "[MASK]", "[PAD]"), "[CLS] $A", None, 2),
    ],
)
def test_padding_is_what_the_folder_says_else_what_no_text_has(tmp_path, special, around, said, pad):
    words(tmp_path, special, around, said)
    assert text.fit(spec_of(kind="text", tokenizer_file=tmp_path / "tokenizer.json"), ()).pad == pad


def test_padding_is_not_what_stands_around_every_text(tmp_path):
    made = words(tmp_path, ("<a>", "<z>"), "<a> $A <z>", "<z>")
    assert text.pad_beside(tmp_path / "tokenizer.json", made) == 1
    fitted = text.fit(spec_of(kind="text", length=6, tokenizer_file=tmp_path / "tokenizer.json"), ())
    assert fitted.pad == 0 and tokenizer.encoded(fitted.fitted, 6, "red", "it") == [0, 3, 1]


@pytest.mark.parametrize("name", ["Dinov2", "ViT"])
def test_a_size_beside_the_positions_is_taken_where_they_are_interpolated(tmp_path, name):
    network = saved(tmp_path, name, **{**SEEING, "image_size": 32})
    x = torch.randn(1, 3, 16, 24)
    if name == "ViT":
        with pytest.raises(UsageError, match="pictures are 16 x 24, the network's positions are of 32 x 32"):
            ours(tmp_path, spec_of(kind="image", height=16, width=24))
        return
    with torch.no_grad():
        theirs = network(pixel_values=x).last_hidden_state.mean(1)
        assert torch.allclose(ours(tmp_path, spec_of(kind="image", height=16, width=24))(x), theirs, atol=1e-5)


def test_as_many_patches_in_another_shape_are_not_the_networks_positions(tmp_path):
    saved(tmp_path, "SiglipVision", **{**SEEING, "image_size": 32})
    with pytest.raises(UsageError, match="pictures are 16 x 64, the network's positions are of 32 x 32"):
        ours(tmp_path, spec_of(kind="image", height=16, width=64))


def test_a_pooler_without_weights_stays_since_its_shape_may_be_relied_on(tmp_path):
    network = saved(tmp_path, "EfficientNet", image_size=64, **THIN)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        theirs = network(pixel_values=x).last_hidden_state.mean((2, 3))
        assert torch.allclose(ours(tmp_path, spec_of(kind="image", height=64, width=64))(x), theirs, atol=1e-5)


def test_a_spectrogram_transformer_gets_frames_first(tmp_path):
    network = saved(tmp_path, "AST", **WIDE)
    x = torch.randn(2, 1, 16, 32)
    with torch.no_grad():
        theirs = network(input_values=x.squeeze(1).transpose(1, 2)).last_hidden_state.mean(1)
        assert torch.allclose(ours(tmp_path, spec_of(kind="audio", mels=16, frames=32))(x), theirs, atol=1e-5)


def test_bands_are_not_given_to_a_network_that_may_read_them_askew(tmp_path):
    saved(tmp_path, "ViT", **SEEING)
    with pytest.raises(UsageError, match="how vit takes bands over frames is not known"):
        ours(tmp_path, spec_of(kind="audio", mels=16, frames=32))


def test_an_encoder_that_was_saved_alone_is_taken_without_its_other_half(tmp_path):
    sizes = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    network = saved(tmp_path, "T5", "EncoderModel", **sizes)
    with torch.no_grad():
        theirs = network(input_ids=IDS, attention_mask=(IDS != 0).long()).last_hidden_state[:, 0]
        assert torch.allclose(ours(tmp_path, TEXT, pooling="cls")(IDS), theirs, atol=1e-5)


def test_a_network_without_a_limit_of_positions_has_none(tmp_path):
    sizes = {"vocab_size": 60, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16}
    saved(tmp_path, "XLNet", **sizes)
    assert ours(tmp_path, TEXT)(IDS).shape == (2, 16)


def test_pictures_of_one_channel_and_those_with_blue_first_are_given_so(tmp_path):
    saved(tmp_path, "ViT", num_channels=1, **SEEING)
    spec = brought(Pretrained(hf=tmp_path), spec_of(kind="image", height=12, width=12)).spec
    assert spec.shape == (1, 16, 16) and len(spec.mean) == 1
    network = saved(tmp_path / "bgr", "ViT", **SEEING)
    (tmp_path / "bgr" / "preprocessor_config.json").write_text(json.dumps({"do_flip_channel_order": True}))
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        theirs = network(pixel_values=x.flip(1)).last_hidden_state.mean(1)
        assert torch.allclose(ours(tmp_path / "bgr", spec_of(kind="image", height=16, width=16))(x), theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"size": {"shortest_edge": 12}, "do_center_crop": True, "crop_size": 16}, "pictures 12 high and cuts 16 x 16"),
        (
            {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": {"height": 16, "width": 12}},
            "pictures 20 high and cuts 16 x 12",
        ),
        ({"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": 16}, ""),
        ({"size": {"shortest_edge": 16}}, ""),
    ],
)  # fmt: skip
def test_a_cut_that_is_another_one_here_is_told(tmp_path, said, told):
    saved(tmp_path, "ViT", **SEEING)
    found = brought(Pretrained(hf=tmp_path), spec_of(kind="image", height=12, width=12))
    assert found.assumed  # nothing says how its pictures are made
    found = processed(tmp_path, said)
    assert np.isclose(found.spec.mean[0], 0.5)
    assert bool(found.assumed) == bool(told) and told in "".join(found.assumed)


def processed(folder, said):
    """What is brought along by a folder with such a processor's file."""
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **said})
    )
    return brought(Pretrained(hf=folder), spec_of(kind="image", height=12, width=12))


@pytest.mark.parametrize("across", [600, 400])
@pytest.mark.parametrize(
    ("processor", "said"),
    [
        ("ViT", {"size": {"height": 160, "width": 160}}),
        ("CLIP", {"size": {"shortest_edge": 160}, "do_center_crop": True, "crop_size": 160}),
        ("CLIP", {"size": {"shortest_edge": 200}, "do_center_crop": True, "crop_size": 160}),
        ("Flava", {"size": {"height": 160, "width": 160}, "do_center_crop": True, "crop_size": 160}),
        ("Flava", {"size": {"height": 200, "width": 200}, "do_center_crop": True, "crop_size": 160}),
        ("ConvNext", {"size": {"shortest_edge": 160}, "crop_pct": 0.8}),
        ("ConvNext", {"size": {"shortest_edge": 384}, "crop_pct": 0.8}),
    ],
)  # fmt: skip
def test_a_photograph_is_seen_as_the_folders_own_processor_gives_it(tmp_path, processor, said, across):
    """But for parts of a pixel, by which two ways to cut differ: with the margin, or stretched, it is .13 to .33 off."""
    import transformers

    saved(tmp_path, "ViT", **SEEING)
    pixels = np.asarray(load_sample_image("china.jpg"))[:, :across]
    spec = processed(tmp_path, said).spec
    made = getattr(transformers, f"{processor}ImageProcessorPil")(
        image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=2, **said
    )
    wanted = made(pixels, return_tensors="np")["pixel_values"][0]
    assert np.abs(preprocess.tensor(spec, pixels) - wanted).mean() < 0.06


@pytest.mark.parametrize(
    ("said", "crop", "share"),
    [
        ({"crop_pct": 0.875}, "center", 224 / 256),
        ({"crop_pct": 0.9}, "center", 224 / 248),
        ({"crop_pct": 0.9, "crop_mode": "squash"}, "none", 224 / 248),
        ({"crop_pct": 1.0}, "center", 1),
        ({}, "center", 1),
    ],
)
def test_timms_share_of_a_picture_is_brought_along(monkeypatch, said, crop, share):
    config = {"input_size": (3, 224, 224), "mean": (0.5,) * 3, "std": (0.5,) * 3, **said}
    monkeypatch.setattr(timm_models, "_created", lambda encoder: SimpleNamespace(pretrained_cfg=config))
    found = timm_models.brought(Pretrained(timm="any", weights="a.safetensors"), PICTURE).spec
    assert (found.height, found.crop) == (224, crop) and np.isclose(found.crop_share, share)


def test_weights_that_are_loaded_after_it_was_built_are_those_that_it_computes_by(tmp_path):
    """LeViT keeps in evaluation what it made of its weights."""
    saved(tmp_path, "Levit", image_size=32, hidden_sizes=[8, 8], num_attention_heads=[2, 2], depths=[1, 1], key_dim=[4, 4],
          mlp_ratio=[2, 2], attention_ratio=[2, 2], down_ops=[["Subsample", 4, 2, 4, 2, 2], [""]])  # fmt: skip
    spec, model = spec_of(kind="image", height=32, width=32), Model(embedding=5)
    loaded = encoder_of("it", spec, Pretrained(hf=tmp_path), model).eval()
    fresh = encoder_of("it", spec, Pretrained(hf=tmp_path), model, fresh=True)
    fresh.load_state_dict(loaded.state_dict())
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(x), loaded(x))


@pytest.mark.long
@pytest.mark.parametrize("name", ["Swin", "T5"])
def test_attention_with_a_bias_of_distances_is_exported(tmp_path, name):
    sizes = {
        "Swin": {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 2},
        "T5": {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
    }
    saved(tmp_path, name, **sizes[name])
    contract = Contract(modalities={"it": PICTURE if name == "Swin" else TEXT}, heads={"logits": CLASSES})
    try_export(load.build(Model(encoders={"it": Pretrained(hf=tmp_path)}), contract).eval(), contract, "teacher.model")
