"""Encoders of folders that ``save_pretrained`` wrote, through transformers' Auto classes: pictures, texts, sounds.

Nothing that such a folder may bring is run (no ``trust_remote_code``), and nothing is unpickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmedge.errors import UsageError, first_line
from mmedge.models.pretrained.brought import size_of
from mmedge.models.pretrained.folder import AGAIN, BLUE_FIRST, config_of, folder_of, transformers_library
from mmedge.models.pretrained.preprocessing import SEES_PADDING
from mmedge.recipe import Pretrained
from mmedge.spec import ArraySpec, AudioSpec, ImageSpec, ModalitySpec, TextSpec

# Which tower of a dual encoder takes a modality, its config, and what brings what it gives into the space of both.
_TOWERS = {
    "image": ("vision_model", "vision_config", "visual_projection"),
    "text": ("text_model", "text_config", "text_projection"),
    "audio": ("audio_model", "audio_config", "audio_projection"),
}
_NONE = ("", "", "")
# Dual encoders whose projection takes the first token of a text, where the others' takes what their tower pools.
_OF_THE_FIRST_TOKEN = ("align", "chinese_clip")
# The RoBERTa family, whose positions begin behind the padding's id.
_POSITIONS_BEHIND_PADDING = (
    "roberta", "roberta-prelayernorm", "camembert", "xlm-roberta", "xlm-roberta-xl", "xmod", "data2vec-text", "mpnet",
    "clap_text_model", "altclip_text_model", "longformer",
)  # fmt: skip


def network(encoder: Pretrained, spec: ModalitySpec, fresh: bool) -> nn.Module:
    """The network of a folder behind one tensor. Raises UsageError where the modality does not fit it."""
    transformers = transformers_library()
    values = dict(config_of(encoder))
    blue_first = isinstance(spec, ImageSpec) and bool(values.pop(BLUE_FIRST, False))
    config = _made(transformers, encoder, str(values.pop("model_type")), values)
    own = _own_config(config, spec.kind)
    form = _form_of(own, spec)
    _check_fits(own, spec)
    try:
        fit = transformers.AutoModel.from_config(config) if fresh else None
    except Exception as error:  # whatever an architecture raises for sizes that do not go together
        raise UsageError(f"its config makes no network: {first_line(error)}", where=str(encoder.hf)) from error
    whole = fit if fit is not None else _loaded(transformers, folder_of(encoder), config)
    if any("relative_" in name for name, _ in whole.named_parameters()):
        # What is added to the scores by distance (T5, BEiT, Swin) cannot be exported with the fused attention.
        whole.set_attn_implementation("eager")
    tower, _, projection = _TOWERS.get(spec.kind, _NONE)
    module = getattr(whole, tower, whole) if tower else whole
    project: nn.Module | None = None
    if encoder.pooling == "projected":
        if module is whole:
            raise UsageError(
                f"pooling: projected is of dual encoders (CLIP, SigLIP, CLAP), and this is {config.model_type}",
                where=str(encoder.hf),
                todo="take mean, cls or map",
            )
        project = getattr(whole, projection, nn.Identity())
    elif (pooler := getattr(module, "pooler", None)) is not None and any(True for _ in pooler.parameters()):
        module.pooler = nn.Identity()  # its output is not used, and its weights are often none that were learnt
    if module is whole and _has_halves(whole):
        module = whole.get_encoder()
    if isinstance(spec, (TextSpec, ArraySpec)):
        first = config.model_type in _OF_THE_FIRST_TOKEN
        return OfIds(module, getattr(spec, "pad", 0), project, first=first, masked=own.model_type not in SEES_PADDING)
    name = "pixel_values" if isinstance(spec, ImageSpec) else getattr(module, "main_input_name", "pixel_values")
    found = OfValues(module, name, form, project, blue_first=blue_first)
    _check_size(found, own, spec)
    return found


def _made(transformers: Any, encoder: Pretrained, kind: str, values: dict[str, Any]) -> Any:
    """The architecture as transformers has it. Raises UsageError for one that it does not know, or values that are none of its."""
    try:
        known = kind in transformers.CONFIG_MAPPING
        if known:
            return transformers.AutoConfig.for_model(kind, **values)
        why = f"transformers {transformers.__version__} does not know the architecture {kind!r}"
    except Exception as error:  # whatever it raises for values that do not fit
        raise UsageError(
            f"the config is none of {kind}: {first_line(error)}",
            where=str(encoder.hf),
            todo=AGAIN,
        ) from error
    todo = "install a newer transformers, or name a network of your own: model.factory"
    raise UsageError(why, where=str(encoder.hf), todo=todo)


def _own_config(config: Any, kind: str) -> Any:
    name = _TOWERS.get(kind, _NONE)[1]
    return getattr(config, name, None) or config


def _loaded(transformers: Any, folder: Path, config: Any) -> nn.Module:
    """The network with the folder's weights, all of them. Raises UsageError for pickled ones, and where some are lacking."""
    if not list(folder.glob("*.safetensors")):
        pickled = sorted(path.name for end in ("bin", "pt", "pth", "h5", "msgpack") for path in folder.glob(f"*.{end}"))
        raise UsageError(
            f"the weights are pickled ({pickled[0]}), and mmedge unpickles nothing"
            if pickled
            else "the folder has no weights: no *.safetensors",
            where=str(folder),
            todo="where you trust them: python -c \"import transformers as t; m = t.AutoModel.from_pretrained('FOLDER');"
            " m.save_pretrained('FOLDER', safe_serialization=True)\"",
        )
    try:
        module, found = transformers.AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told here, by name
        )
    except Exception as error:  # whatever transformers raises for files that do not fit
        raise UsageError(
            f"the weights cannot be loaded into the network of the folder's config: {first_line(error)}",
            where=str(folder),
            todo=f"{AGAIN}; where the file is a pointer of Git LFS: git lfs pull",
        ) from error
    for name, there, wanted in sorted(found["mismatched_keys"]):
        raise UsageError(
            f"the weights are of another network than the config: {name} is {list(there)}, and would be {list(wanted)}",
            where=str(folder),
            todo=AGAIN,
        )
    # What is not used may be lacking: a pooler, and the half of an encoder and decoder that writes.
    unused = "decoder." if _has_halves(module) else "pooler."
    lacking = sorted(x for x in found["missing_keys"] if "pooler." not in x and not x.startswith(unused))
    if lacking:
        raise UsageError(
            f"the folder lacks {len(lacking)} weights ({lacking[0]}, ...), which would be random numbers",
            where=str(folder),
            todo=AGAIN,
        )
    return module


def _has_halves(whole: nn.Module) -> bool:
    """Whether a network has an encoder and what writes by it, whatever a config says that was saved of the encoder alone."""
    return all(isinstance(getattr(whole, half, None), nn.Module) for half in ("encoder", "decoder"))


def _check_fits(config: Any, spec: ModalitySpec) -> None:
    """Raise UsageError where ids or positions would be out of the network's tables."""
    tokens, vocabulary = getattr(spec, "tokens", None), getattr(config, "vocab_size", None)
    if tokens and vocabulary and tokens > vocabulary:
        raise UsageError(
            f"the tokenizer has {tokens} ids, the embedding {vocabulary}",
            todo="take the folder's own tokenizer.json: tokenizer_file, or as a teacher leave teacher.preprocessing out",
        )
    positions = _positions(config)
    if spec.dtype == "int64" and positions is not None and spec.shape[-1] > positions:
        raise UsageError(
            f"texts have {spec.shape[-1]} tokens, the network {positions} positions", todo="lower 'length'"
        )


def _check_size(network: nn.Module, config: Any, spec: ModalitySpec) -> None:
    """Raise UsageError for pictures of another size than the network's positions, where it does not interpolate them.

    One that does (DINOv2, CLIPSeg) takes any size: this one, and one of another count of patches.
    """
    side, patch = size_of(getattr(config, "image_size", None)), size_of(getattr(config, "patch_size", None))
    stages = getattr(config, "hidden_sizes", None) is not None
    if not isinstance(spec, ImageSpec) or not side or not patch or stages or side == (spec.height, spec.width):
        return
    try:
        for taller in (0, patch[0]):
            with torch.no_grad():
                network.eval()(torch.zeros(1, spec.channels, spec.height + taller, spec.width))
    except (ValueError, RuntimeError, TypeError, IndexError) as error:  # of code that is not ours
        raise UsageError(
            f"pictures are {spec.height} x {spec.width}, the network's positions are of {side[0]} x {side[1]}",
            todo=f"height: {side[0]}, width: {side[1]}",
        ) from error


def _positions(config: Any) -> int | None:
    """How many tokens a text may have; None where there is no limit, as of XLNet, which says -1."""
    count = getattr(config, "max_position_embeddings", None)
    if not count or count < 0:
        return None
    behind: int = config.pad_token_id + 1 if config.model_type in _POSITIONS_BEHIND_PADDING else 0
    return int(count) - behind


def attended(ids: Tensor, pad: int) -> Tensor:
    """bool [batch, length]: which tokens count. Of nothing but padding, as an absent text is, the first, so that all is finite."""
    first = torch.ones_like(ids).cumsum(dim=1) == 1
    return (ids != pad) | first


def _given(output: Any, project: nn.Module | None) -> Tensor:
    """[batch, length, width] or maps; by ``project`` what the network pools itself, in the space of both towers, [batch, width]."""
    states: Tensor = output.last_hidden_state if project is None else project(output.pooler_output)
    return states


class OfIds(nn.Module):
    """A text network: int64 [batch, length] -> what ``_given`` says; what is padding is not attended."""

    def __init__(
        self,
        network: nn.Module,
        pad: int,
        project: nn.Module | None = None,
        *,
        first: bool = False,
        masked: bool = True,
    ) -> None:
        super().__init__()
        self.network, self.pad, self.project, self.first, self.masked = network, pad, project, first, masked

    def forward(self, x: Tensor) -> Tensor:
        mask = attended(x, self.pad).to(torch.int64) if self.masked else torch.ones_like(x)
        output = self.network(input_ids=x, attention_mask=mask)
        if self.first and self.project is not None:
            projected: Tensor = self.project(output.last_hidden_state[:, 0])
            return projected
        return _given(output, self.project)


# How a network takes a sound of bands over frames, [batch, 1, bands, frames]: with that one channel, or without.
_Form = Literal["as it is", "bands", "frames first", "channel, frames first"]
_FORMS: dict[str, _Form] = {
    "whisper": "bands",
    "audio-spectrogram-transformer": "frames first",
    "clap_audio_model": "channel, frames first",
}


def _form_of(config: Any, spec: ModalitySpec) -> _Form:
    """Raises UsageError for bands that go to a network of which nobody has said how it takes them: it might read them askew."""
    if not isinstance(spec, AudioSpec) or spec.features == "waveform":
        return "as it is"
    if config.model_type not in _FORMS:
        raise UsageError(
            f"how {config.model_type} takes bands over frames is not known",
            todo="features: waveform where it takes samples; or name a network of your own: model.factory",
        )
    return _FORMS[config.model_type]


class OfValues(nn.Module):
    """A network of pictures or sounds: [batch, *shape] -> what ``_given`` says."""

    def __init__(
        self, network: nn.Module, name: str, form: _Form, project: nn.Module | None, *, blue_first: bool
    ) -> None:
        super().__init__()
        self.network, self.name, self.form, self.project, self.blue_first = network, name, form, project, blue_first

    def forward(self, x: Tensor) -> Tensor:
        if self.blue_first:
            x = torch.cat([x[:, 2:3], x[:, 1:2], x[:, 0:1]], dim=1)
        if self.form in ("bands", "frames first"):
            x = x.squeeze(1)
        if self.form in ("frames first", "channel, frames first"):
            x = x.transpose(-2, -1)
        return _given(self.network(**{self.name: x}), self.project)
