"""Folders as ``save_pretrained`` writes them, of tiny networks of random weights, and a table of pictures and words."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = {"fruit": ("apple", "pear", "plum"), "tool": ("hammer", "saw", "drill")}


def bert(folder: Path, tokens: int = 60, positions: int = 16, sizes: dict = TINY) -> Path:
    """A text network, and a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=tokens, max_position_embeddings=positions, **sizes)).save_pretrained(folder)
    every = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(word for words in WORDS.values() for word in words)]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(every)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    around = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def vit(folder: Path, side: int = 16, patch: int = 8, sizes: dict = TINY) -> Path:
    """A network of pictures, and its preprocessing."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    ViTModel(ViTConfig(image_size=side, patch_size=patch, **sizes)).save_pretrained(folder)
    said = {
        "size": {"height": side, "width": side},
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
        "do_resize": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


def clip(folder: Path, side: int = 16) -> Path:
    """A dual encoder of one layer a tower, with the tokenizer of ``bert`` and the preprocessing of ``vit``, which lie beside it."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    text = {"vocab_size": 60, "max_position_embeddings": 16, "eos_token_id": 3, **TINY}
    config = CLIPConfig(text_config=text, vision_config={"image_size": side, "patch_size": 8, **TINY}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    for name in ("bert/tokenizer.json", "vit/preprocessor_config.json"):
        shutil.copy(folder.parent / name, folder)
    return folder


def table(folder: Path, rows: int = 96) -> Path:
    """A picture of a fruit is red above, of a tool below; its name is one of three words."""
    random = np.random.default_rng(0)
    with (folder / "table.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "picture", "name", "label", "split"])
        for row in range(rows):
            label = ("fruit", "tool")[row % 2]
            pixels = random.integers(0, 90, (12, 12, 3), np.uint8)
            pixels[slice(0, 6) if label == "fruit" else slice(6, 12), :, 0] += 120
            Image.fromarray(pixels).save(folder / f"{row}.png")
            split = "train" if row < rows // 2 else "validation" if row < 3 * rows // 4 else "test"
            writer.writerow([row, f"{row}.png", WORDS[label][row // 2 % 3], label, split])
    return folder / "table.csv"


def values(folder: Path) -> dict:
    """A recipe over all three, as plain values that a test may change."""
    return {
        "schema": 1,
        "name": "tiny",
        "data": {
            "manifest": str(folder / "table.csv"),
            "target": "label",
            "id": "id",
            "split": "split",
            "modalities": {
                "picture": {"kind": "image", "column": "picture", "height": 12, "width": 12},
                "name": {"kind": "text", "column": "name", "length": 8, "vocabulary": 280},
            },
        },
        "teacher": {
            "model": {
                "encoders": {"picture": {"hf": f"{folder}/vit"}, "name": {"hf": f"{folder}/bert"}},
                "embedding": 8,
                "hidden": 8,
            },
            "train": {"epochs": 3, "batch_size": 16},
        },
        "distill": {
            "model": {
                "encoders": {"picture": {"widths": [4, 8]}, "name": {"widths": [8, 8]}},
                "embedding": 8,
                "hidden": 8,
            },
            "train": {"epochs": 2, "batch_size": 16},
            "controls": {"seeds": 1},
        },
        "measure": {"runs": 20, "warmup": 1},
        "export": {"targets": {"onnxruntime-cpu": {}}},
        "gates": "none",
    }


def everything(folder: Path) -> Path:
    """A folder with all of it."""
    bert(folder / "bert")
    vit(folder / "vit")
    table(folder)
    return folder
