"""Encoders that have learnt elsewhere: by folder or by file, as a teacher's, with what is refused of them."""

import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from mmedge import hub
from mmedge.errors import UsageError
from mmedge.models.encoders import encoder_of
from mmedge.models.pretrained import origin_of
from mmedge.models.pretrained.brought import Brought
from mmedge.models.pretrained.convert import convert
from mmedge.models.pretrained.efficientnet import EfficientNetLite
from mmedge.models.pretrained.folder import config_of
from mmedge.models.pretrained.preprocessing import brought
from mmedge.recipe import Model, Pretrained
from mmedge.spec import ModalitySpec
from tests.conftest import once
from tests.models.pretrained import folders


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return once(tmp_path_factory, "pretrained-folders", folders.everything)


def spec_of(**values):
    return TypeAdapter(ModalitySpec).validate_python(values)


TEXT = spec_of(kind="text", length=8, tokens=10)
PICTURE = spec_of(kind="image", height=16, width=16)


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TOWERS = {
    "text_config": {"vocab_size": 60, "max_position_embeddings": 16, **SMALL},
    "vision_config": {"image_size": 16, "patch_size": 8, **SMALL},
    "projection_dim": 8,
}
WHISPER = {
    **{f"{half}_{what}": 2 for half in ("encoder", "decoder") for what in ("layers", "attention_heads")},
    "d_model": 16,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_source_positions": 50,
    "max_target_positions": 8,
    "vocab_size": 60,
    "pad_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
HEARING = {
    "text_config": {"vocab_size": 60, "max_position_embeddings": 16, **SMALL},
    "audio_config": {
        "spec_size": 32,
        "num_mel_bins": 8,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "window_size": 4,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "patch_embeds_hidden_size": 8,
        "hidden_size": 16,
    },
    "projection_dim": 8,
}
SOUND = spec_of(kind="audio", mels=8, frames=100)
WAVES = {
    "conv_dim": [8, 8],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 8],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    **SMALL,
}


def built(spec, fresh=False, **of):
    return encoder_of("it", spec, Pretrained(**of), Model(embedding=5), fresh=fresh)


def test_a_folder_is_the_network_that_transformers_loads_from_it(made):
    from transformers import AutoModel

    ids = torch.tensor([[2, 4, 3, 0, 0, 0, 0, 0], [2, 4, 5, 6, 3, 0, 0, 0]])
    theirs = AutoModel.from_pretrained(made / "bert").eval()(input_ids=ids, attention_mask=(ids != 0).long())
    mask = (ids != 0).float().unsqueeze(2)
    wanted = (theirs.last_hidden_state * mask).sum(1) / mask.sum(1)
    ours = built(TEXT, hf=made / "bert").eval()
    assert torch.allclose(ours.body(ids), wanted, atol=1e-6)
    assert torch.allclose(built(TEXT, hf=made / "bert", pooling="cls").eval().body(ids), theirs.last_hidden_state[:, 0], atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("pooling", ["cls", "mean", "map"])
def test_padding_says_nothing_and_a_text_of_nothing_else_is_finite(made, pooling):
    encoder = built(TEXT, hf=made / "bert", pooling=pooling).eval()
    short = torch.tensor([[2, 4, 5, 3]])
    padded = torch.nn.functional.pad(short, (0, 4))
    assert torch.allclose(encoder(short), encoder(padded), atol=1e-5)
    assert torch.isfinite(encoder(torch.zeros(2, 8, dtype=torch.int64))).all()


def test_the_architecture_travels_and_its_weights_do_not_change_what_is_built(made, tmp_path):
    from mmedge.models.pretrained import described

    section = described(Model(encoders={"it": Pretrained(hf=made / "vit")}))
    there = Model.model_validate_json(section.model_dump_json().replace(str(made), "nowhere"))
    assert not (tmp_path / "nowhere").exists()
    encoder = encoder_of("it", PICTURE, there.encoders["it"], there, fresh=True)
    names = {name: x.shape for name, x in encoder.state_dict().items()}
    assert names == {name: x.shape for name, x in encoder_of("it", PICTURE, section.encoders["it"], section).state_dict().items()}  # fmt: skip


def test_a_file_in_half_precision_is_computed_in_float32(made, tmp_path):
    folder = shutil.copytree(made / "bert", tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    for fresh in (True, False):
        assert {x.dtype for x in built(TEXT, fresh=fresh, hf=folder).parameters()} == {torch.float32}


def test_a_folder_brings_its_preprocessing_along(made):
    found = brought(Pretrained(hf=made / "vit"), spec_of(kind="image", height=12, width=12, column="file"))
    assert (found.spec.height, found.spec.mean, found.spec.std, found.spec.column) == (
        16,
        (0.5,) * 3,
        (0.25,) * 3,
        "file",
    )
    assert not found.assumed
    assert brought(Pretrained(hf=made / "bert"), TEXT).spec.tokenizer_file == made / "bert" / "tokenizer.json"


def test_pixels_that_a_processor_leaves_as_they_are_are_those_of_our_spec(made, tmp_path):
    folder = shutil.copytree(made / "vit", tmp_path / "vit")
    said = {"size": 16, "do_rescale": False, "image_mean": [127.0] * 3, "image_std": [128.0] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    spec = brought(Pretrained(hf=folder), PICTURE).spec
    assert np.allclose((np.array([0.0, 1.0]) - spec.mean[0]) / spec.std[0], [-127 / 128, 1.0])


def test_what_no_file_says_is_told(made, tmp_path):
    folder = shutil.copytree(made / "vit", tmp_path / "vit")
    (folder / "preprocessor_config.json").unlink()
    found = brought(Pretrained(hf=folder), PICTURE)
    assert found.assumed == ("no preprocessor_config.json says so: ImageNet's mean and std assumed",)
    assert isinstance(found, Brought) and found.spec.height == 16  # which config.json says


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (spec_of(kind="text", length=8, tokens=99), "the tokenizer has 99 ids, the embedding 60"),
        (spec_of(kind="text", length=32, tokens=10), "texts have 32 tokens, the network 16 positions"),
    ],
)
def test_ids_that_the_tables_do_not_hold_are_told(made, spec, told):
    with pytest.raises(UsageError, match=f"encoders.it: {told}"):
        built(spec, fresh=True, hf=made / "bert")


def test_a_size_that_positions_do_not_fit_is_told(made):
    with pytest.raises(UsageError, match="pictures are 24 x 16, the network's positions are of 16 x 16"):
        built(spec_of(kind="image", height=24, width=16), fresh=True, hf=made / "vit")


def test_pickled_weights_are_refused_with_the_way_to_convert_them(made, tmp_path):
    folder = shutil.copytree(made / "bert", tmp_path / "bert")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"the weights are pickled \(pytorch_model.bin\)") as told:
        built(TEXT, hf=folder)
    assert "save_pretrained('FOLDER', safe_serialization=True)" in told.value.todo


def test_weights_that_are_lacking_are_not_drawn(made, tmp_path):
    folder = shutil.copytree(made / "bert", tmp_path / "bert")
    state = load_file(folder / "model.safetensors")
    save_file({name: x for name, x in state.items() if "layer.1" not in name}, folder / "model.safetensors")
    with pytest.raises(UsageError, match="the folder lacks 16 weights"):
        built(TEXT, hf=folder)


def test_weights_of_another_network_than_the_config_are_told_by_name(made, tmp_path):
    folder = shutil.copytree(made / "bert", tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 70}))
    with pytest.raises(UsageError, match=r"of another network than the config: .*word_embeddings.weight is \[60, 16\]"):
        built(TEXT, hf=folder)


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("config.json", "{", "config.json is no JSON"),
        ("config.json", "[]", "config.json holds no mapping"),
        ("config.json", "{}", "config.json says no model_type"),
        ("config.json", '{"model_type": "strange"}', "does not know the architecture 'strange'"),
        ("config.json", '{"model_type": "vit", "hidden_size": "big"}', "the config is none of vit"),
        ("config.json", '{"model_type": "bert", "hidden_size": 30, "num_attention_heads": 4}', "its config makes no network"),
        ("preprocessor_config.json", "{", "preprocessor_config.json is no JSON"),
        ("preprocessor_config.json", '{"image_mean": "grey", "image_std": [1, 1, 1]}', "says of its pictures cannot be done"),
        ("preprocessor_config.json", '{"image_mean": [0], "image_std": [0]}', "every value of 'std' must be above 0"),
    ],
)  # fmt: skip
def test_files_of_a_folder_that_say_nothing_that_can_be_done_are_told(made, tmp_path, file, text, told):
    folder = shutil.copytree(made / "vit", tmp_path / "vit")
    (folder / file).write_text(text)
    section = Pretrained(hf=folder)
    with pytest.raises(UsageError, match=told):
        brought(section, PICTURE)
        encoder_of("it", PICTURE, Pretrained(hf=folder, config=config_of(section)), Model(), fresh=True)


def test_a_processor_of_two_modalities_says_how_pictures_are_preprocessed(made, tmp_path):
    folder = shutil.copytree(made / "vit", tmp_path / "vit")
    said = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(
        json.dumps({"image_processor": said, "processor_class": "CLIPProcessor"})
    )
    found = brought(Pretrained(hf=folder), PICTURE)
    assert (found.spec.mean, found.spec.std, found.assumed) == ((0.5,) * 3, (0.25,) * 3, ())


def test_maps_of_channels_are_averaged_by_cls_too(tmp_path):
    import transformers

    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    transformers.ResNetModel(config).save_pretrained(tmp_path)
    x = torch.randn(1, 3, 16, 16)
    cls, mean = (built(PICTURE, hf=tmp_path, pooling=pooling).eval().body(x) for pooling in ("cls", "mean"))
    assert torch.equal(cls, mean)


def test_a_name_on_the_hub_without_a_network_says_how_to_get_the_folder(monkeypatch):
    def gone(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", gone)
    with pytest.raises(UsageError, match="the Hub cannot be reached") as told:
        hub.fetched("owner/name")
    assert "hf download owner/name --local-dir FOLDER" in told.value.todo


def test_a_folder_is_told_from_a_name_by_how_it_begins():
    assert isinstance(Pretrained(hf="owner/name").hf, str)
    assert not isinstance(Pretrained(hf="./owner/name").hf, str)
    with pytest.raises(ValueError, match="name one of"):
        Pretrained(hf="owner/name", timm="resnet18")


def test_a_checkpoint_becomes_safetensors_without_unpickling_and_fits_the_architecture(tmp_path):
    torch.manual_seed(0)
    network = EfficientNetLite((32, 32))
    state = {**network.state_dict(), "_fc.weight": torch.zeros(3, 1280), "_fc.bias": torch.zeros(3)}
    torch.save(state, tmp_path / "lite.pth")
    spec = spec_of(kind="image", height=32, width=32)
    with pytest.raises(UsageError, match="the weights are not safetensors") as told:
        built(spec, architecture="efficientnet-lite0", weights=tmp_path / "lite.pth")
    assert "mmedge.models.pretrained.convert lite.pth lite.safetensors" in told.value.todo
    assert convert(tmp_path / "lite.pth", tmp_path / "lite.safetensors") == len(state)
    encoder = built(spec, architecture="efficientnet-lite0", weights=tmp_path / "lite.safetensors").eval()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(encoder.body(x), network.eval()(x).mean((2, 3)))


def test_efficientnet_fills_as_tensorflow_does():
    layer = EfficientNetLite((224, 224))._conv_stem
    assert layer.fill.padding == (0, 1, 0, 1)  # behind alone
    assert sum(p.numel() for p in EfficientNetLite((224, 224)).parameters()) == 3_371_008


def test_a_model_of_timm_takes_its_weights_without_their_classifier_and_brings_its_preprocessing(tmp_path, monkeypatch):
    """By a stand-in of timm's two calls: timm itself does not import beside a torch without its torchvision."""

    def create_model(name, pretrained, num_classes):
        if name != "small":
            raise (FileNotFoundError if ":" in name else RuntimeError)(f"Unknown model ({name})")
        network = torch.nn.Sequential(
            Asserting(), torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        )
        said = {"input_size": (3, 20, 20), "mean": (0.5,) * 3, "std": (0.2,) * 3, "classifier": ("1.fc", "head.l")}
        network.pretrained_cfg = said
        return network

    class Asserting(torch.nn.Module):
        def forward(self, x):
            torch._assert(x.shape[2] == 20, f"Input height ({x.shape[2]}) doesn't match model (20).")
            return x

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    network = create_model("small", False, 0)
    classifiers = {"1.fc.weight": torch.zeros(2, 4), "head.l.weight": torch.zeros(2, 4), "head.bn.bias": torch.zeros(4)}
    save_file({**network.state_dict(), **classifiers}, tmp_path / "small.safetensors")
    section = Pretrained(timm="small", weights=tmp_path / "small.safetensors")
    found = origin_of(section).brought(section, PICTURE)
    assert (found.spec.shape, found.spec.std) == ((3, 20, 20), (0.2,) * 3)
    x = torch.randn(2, 3, 20, 20)
    assert torch.equal(encoder_of("it", found.spec, section, Model()).eval().body(x), network(x))
    for name in ("smal", "hf-hub:smal"):
        with pytest.raises(UsageError, match="encoders.it: timm has no such model: Unknown model"):
            built(PICTURE, timm=name, weights=tmp_path / "small.safetensors")
    with pytest.raises(UsageError, match=r"does not take image \[3, 16, 16\]: Input height \(16\) doesn't match"):
        built(PICTURE, timm="small", weights=tmp_path / "small.safetensors")


FAMILIES = {
    "the tower of a dual encoder that sees": ("CLIP", TOWERS, PICTURE),
    "the one that reads": ("CLIP", TOWERS, TEXT),
    "maps of channels": ("ConvNext", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, spec_of(kind="image", height=32, width=32)),
    "of a dual encoder in the space of both": ("CLIP", TOWERS, PICTURE, "projected"),
    "its words": ("CLIP", TOWERS, TEXT, "projected"),
    "without a projection": ("Siglip", TOWERS, PICTURE, "projected"),
    "its words too": ("Siglip", TOWERS, TEXT, "projected"),
    "a dual encoder that hears": ("Clap", HEARING, SOUND),
    "in the space of both": ("Clap", HEARING, SOUND, "projected"),
    "the encoder of two halves": ("Whisper", WHISPER, spec_of(kind="audio", preset="whisper", mels=80, frames=100)),
    "a waveform": ("Wav2Vec2", WAVES, spec_of(kind="audio", features="waveform", length=1600)),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_networks_give_one_embedding(family, tmp_path):
    import transformers

    name, sizes, spec, *pooling = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**sizes)
    getattr(transformers, f"{name}Model")(config).save_pretrained(tmp_path)
    encoder = built(spec, hf=tmp_path, pooling=next(iter(pooling), None)).eval()
    x = torch.zeros(2, *spec.shape, dtype=getattr(torch, spec.dtype))
    assert encoder(x).shape == (2, 5) and torch.isfinite(encoder(x)).all()
