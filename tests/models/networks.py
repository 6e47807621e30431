"""Small networks of real architectures, with random weights: what users bring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge.contract import Contract

IMAGE = {"kind": "image", "height": 32, "width": 32}
TEXT = {"kind": "text", "length": 10, "tokens": 40}
SERIES = {"kind": "sensor", "channels": 6, "length": 20}
TABLE = {"kind": "array", "shape": [8]}
SOUND = {"kind": "audio", "mels": 16, "frames": 24}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


@dataclass(frozen=True)
class Network:
    """``make()``: the module; ``modalities``: those that its forward takes, by name."""

    name: str
    make: Callable[[], nn.Module]
    modalities: dict[str, dict[str, Any]]

    @property
    def contract(self) -> Contract:
        return Contract.model_validate(
            {"task": "classification", "labels": ["a", "b", "c"], "modalities": self.modalities}
        )


class Headed(nn.Module):
    """A backbone of transformers, and a linear layer on what ``pool`` takes of its outputs."""

    def __init__(self, backbone: nn.Module, width: int, pool: Callable[[Any], Tensor], inputs: dict[str, str]):
        super().__init__()
        self.backbone, self.head, self.pool, self.names = backbone, nn.Linear(width, 3), pool, inputs

    def given(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        out = {self.names[name]: x for name, x in inputs.items()}
        if "input_ids" in out:
            out["attention_mask"] = (out["input_ids"] != 0).long()
        return out

    def answer(self, **inputs: Tensor) -> Tensor:
        return self.head(self.pool(self.backbone(**self.given(inputs))))


class Seeing(Headed):
    def forward(self, image: Tensor) -> Tensor:
        return self.answer(image=image)


class Reading(Headed):
    def forward(self, text: Tensor) -> Tensor:
        return self.answer(text=text)


class Hearing(Headed):
    def forward(self, sound: Tensor) -> Tensor:
        return self.answer(sound=sound[:, 0])


class Listening(Headed):
    def forward(self, wave: Tensor) -> Tensor:
        return self.answer(wave=wave)


class Both(Headed):
    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return self.answer(image=image, text=text)


def _pooled(out: Any) -> Tensor:
    return out.pooler_output.flatten(1)


def _first(out: Any) -> Tensor:
    return out.last_hidden_state[:, 0]


def _mean(out: Any) -> Tensor:
    return out.last_hidden_state.mean(1)


def _seeing(kind: str, width: int = 16, pool: Callable[[Any], Tensor] = _first, **sizes: Any) -> Network:
    def make() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{kind}Config")(**sizes)
        return Seeing(getattr(transformers, f"{kind}Model")(config), width, pool, {"image": "pixel_values"})

    return Network(kind, make, {"image": IMAGE})


def _reading(kind: str, pool: Callable[[Any], Tensor] = _first, **sizes: Any) -> Network:
    def make() -> nn.Module:
        import transformers

        sizes_ = {"vocab_size": 40, **sizes}
        config = getattr(transformers, f"{kind}Config")(**sizes_)
        return Reading(getattr(transformers, f"{kind}Model")(config), 16, pool, {"text": "input_ids"})

    return Network(kind, make, {"text": TEXT})


def _clip() -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    text = {**SMALL, "vocab_size": 40, "max_position_embeddings": 10, "eos_token_id": 39, "bos_token_id": 1}
    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    names = {"image": "pixel_values", "text": "input_ids"}
    return Both(model, 32, lambda out: torch.cat([out.image_embeds, out.text_embeds], 1), names)


def _whisper() -> nn.Module:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=24, num_mel_bins=16,
        max_source_positions=12,
    )  # fmt: skip
    return Hearing(WhisperEncoder(config), 16, _mean, {"sound": "input_features"})


def _wav2vec2() -> nn.Module:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config(
        **SMALL, conv_dim=(8, 8), conv_kernel=(10, 4), conv_stride=(5, 2), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, num_feat_extract_layers=2,
    )  # fmt: skip
    return Listening(Wav2Vec2Model(config), 16, _mean, {"wave": "input_values"})


class TwoRelus(nn.Module):
    """One activation, called after layers of two widths."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.relu = nn.Linear(8, 12), nn.Linear(12, 6), nn.Linear(6, 3), nn.ReLU()

    def forward(self, table: Tensor) -> Tensor:
        return self.c(self.relu(self.b(self.relu(self.a(table)))))


class Bottleneck(nn.Module):
    """A residual block as torchvision has it: one ReLU in three places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 8, 1)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(8)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.fc(self.relu(self.bn3(self.conv3(y)) + x).mean((2, 3)))


class Siamese(nn.Module):
    """One encoder for two inputs, and their difference."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 6))
        self.out = nn.Linear(12, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = self.encoder(left), self.encoder(right)
        return self.out(torch.cat([(a - b).abs(), a * b], 1))


class Recurrent(nn.Module):
    def __init__(self, kind: str, **more: Any) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(6, 8, batch_first=True, **more)
        self.out = nn.Linear(16 if more.get("bidirectional") else 8, 3)

    def forward(self, series: Tensor) -> Tensor:
        return self.out(self.rnn(series.transpose(1, 2))[0][:, -1])


class LengthFirst(nn.Module):
    """A recurrent network that wants the length first, whose length is that of a batch of two."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(4, 8), nn.Linear(8, 3)

    def forward(self, table: Tensor) -> Tensor:
        return self.out(self.rnn(table.unflatten(1, (2, 4)).transpose(0, 1))[1][-1])


class Unrolled(nn.Module):
    """A cell that is called at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(6, 8), nn.Linear(8, 3)

    def forward(self, series: Tensor) -> Tensor:
        state = series.new_zeros(series.shape[0], 8)
        for step in range(4):
            state = self.cell(series[:, :, step], state)
        return self.out(state)


class TiedAutoencoder(nn.Module):
    """A weight that two layers share, and a third layer that has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.b.weight = self.a.weight
        self.same = self.c

    def forward(self, table: Tensor) -> Tensor:
        return self.same(torch.tanh(self.b(torch.tanh(self.a(table)))))


class Learned(nn.Module):
    """Two learned queries that attend to the features: a submodule's output of two rows whatever the batch is."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Embedding(2, 8)
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(16, 3)

    def forward(self, series: Tensor) -> Tensor:
        queries = self.queries(torch.arange(2))[None].expand(series.shape[0], -1, -1)
        keys = F.pad(series, (0, 0, 0, 2)).transpose(1, 2)
        return self.out(self.attention(queries, keys, keys)[0].flatten(1))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.depth = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.down, self.up, self.act = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1), nn.SiLU()
        self.pool, self.out = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.act(self.depth(self.act(self.conv(image))))
        x = x * torch.sigmoid(self.up(self.act(self.down(self.pool(x)))))
        return self.out(self.pool(x).flatten(1))


class Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1)
        self.up, self.act, self.out = nn.ConvTranspose2d(6, 6, 2, 2), nn.LeakyReLU(), nn.Linear(12, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.act(self.down(image))
        y = self.act(self.up(self.act(self.deep(x))))
        return self.out(torch.cat([x, y], 1).mean((2, 3)))


class Gated(nn.Module):
    """Late fusion by weights that one modality gives the other; big numbers on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.gate = nn.Embedding(40, 8, padding_idx=0), nn.Linear(8, 8)
        self.table, self.norm, self.out = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, table: Tensor, text: Tensor) -> Tensor:
        words = self.words(text).sum(1) / (text != 0).sum(1, keepdim=True).clamp(min=1)
        return self.out(self.norm(1e4 * self.table(table) * torch.sigmoid(self.gate(words))))


class Knowing(nn.Module):
    """A network that takes ``present`` itself, and gives its answer in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, left: Tensor, right: Tensor, present: Tensor) -> dict[str, Tensor]:
        return {"logits": self.out(self.a(left) * present[:, :1] + self.b(right) * present[:, 1:])}


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.body, self.out = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3)

    def forward(self, text: Tensor) -> Tensor:
        return self.out(self.body(self.words(text), src_key_padding_mask=text == 0)[:, 0])


class Causal(nn.Module):
    """Dilated convolutions over time, with weights that are normalised."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.one, self.two = norm(nn.Conv1d(6, 8, 3)), norm(nn.Conv1d(8, 8, 3, dilation=2))
        self.act, self.out = nn.PReLU(), nn.Linear(8, 3)

    def forward(self, series: Tensor) -> Tensor:
        x = self.act(self.one(F.pad(series, (2, 0))))
        return self.out(self.act(self.two(F.pad(x, (4, 0))))[:, :, -1])


PAIR = {"left": TABLE, "right": TABLE}
HAND_WRITTEN = [
    Network("two-relus", TwoRelus, {"table": TABLE}),
    Network("bottleneck", Bottleneck, {"image": IMAGE}),
    Network("siamese", Siamese, PAIR),
    Network("gru", lambda: Recurrent("GRU"), {"series": SERIES}),
    Network("lstm", lambda: Recurrent("LSTM", bidirectional=True, num_layers=2), {"series": SERIES}),
    Network("length-first", LengthFirst, {"table": TABLE}),
    Network("unrolled", Unrolled, {"series": SERIES}),
    Network("tied", TiedAutoencoder, {"table": TABLE}),
    Network("learned-queries", Learned, {"series": SERIES}),
    Network("squeeze-excite", SqueezeExcite, {"image": IMAGE}),
    Network("unet", Unet, {"image": IMAGE}),
    Network("gated", Gated, {"table": TABLE, "text": TEXT}),
    Network("knows-presence", Knowing, PAIR),
    Network("transformer", Encoder, {"text": TEXT}),
    Network("causal", Causal, {"series": SERIES}),
]
_STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8}
BROUGHT = [
    Network("CLIP", _clip, {"image": IMAGE, "text": TEXT}),
    _seeing("CLIPVision", pool=_pooled, **SMALL, image_size=32, patch_size=16),
    _reading("CLIPText", pool=_pooled, **SMALL, max_position_embeddings=10, eos_token_id=39, bos_token_id=1),
    _reading("Bert", pool=_pooled, **SMALL, max_position_embeddings=12),
    _reading("DistilBert", dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=12),
    _reading("Roberta", pool=_pooled, **SMALL, max_position_embeddings=14),
    _reading("Albert", pool=_pooled, **SMALL, embedding_size=8, max_position_embeddings=12),
    _reading("Electra", **SMALL, embedding_size=8, max_position_embeddings=12),
    _reading("GPT2", pool=_mean, n_embd=16, n_layer=2, n_head=2, n_positions=12),
    _seeing("ViT", **SMALL, image_size=32, patch_size=16),
    _seeing("DeiT", **SMALL, image_size=32, patch_size=16),
    _seeing("Dinov2", hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16),
    _seeing("ResNet", pool=_pooled, **_STAGES, layer_type="bottleneck"),
    _seeing("RegNet", pool=_pooled, **_STAGES, groups_width=8),
    _seeing("MobileNetV2", width=1280, pool=_pooled, depth_multiplier=0.25, image_size=32),
    _seeing("MobileNetV1", width=256, pool=_pooled, depth_multiplier=0.25, image_size=32, min_depth=4),
    _seeing("ConvNext", pool=_pooled, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    _seeing(
        "EfficientNet",
        width=320,
        pool=_pooled,
        width_coefficient=0.25,
        depth_coefficient=0.3,
        hidden_dim=320,
        image_size=32,
    ),
    Network("Whisper encoder", _whisper, {"sound": SOUND}),
    Network("wav2vec2", _wav2vec2, {"wave": {"kind": "audio", "features": "waveform", "length": 400}}),
]
