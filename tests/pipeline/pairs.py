"""A small recipe of pairs: written digits, as numbers, and their names."""

import copy

from sklearn.datasets import load_digits

from tests.data.made import write_table

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PIXELS = [f"p{number}" for number in range(64)]
TARGETS = {"onnxruntime-cpu": {}, "openvino-cpu": {"precision": "int8"}, "tensorrt-rtx": {"precision": "fp16"}}


def values_of(manifest):
    train = {"epochs": 10, "batch_size": 32, "learning_rate": 0.01}
    return {
        "schema": 1,
        "name": "digits",
        "data": {
            "manifest": str(manifest),
            "task": "retrieval",
            "target": "digit",
            "id": "id",
            "modalities": {
                "pixels": {"kind": "tabular", "columns": PIXELS},
                "name": {"kind": "text", "length": 4, "vocabulary": 300},
            },
            "towers": {"picture": ["pixels"], "text": ["name"]},
        },
        "teacher": {
            "model": {"encoders": {"pixels": {"widths": [64]}, "name": {"widths": [16]}}, "dimensions": 24},
            "train": train,
            "export": False,
        },
        "distill": {
            "model": {
                "encoders": {"pixels": {"widths": [16]}, "name": {"widths": [8]}},
                "embedding": 16,
                "hidden": 16,
                "dimensions": 8,
            },
            "loss": {
                "hints": [
                    {"teacher": "towers.picture", "student": "towers.picture", "weight": 0.2},
                    {"teacher": "towers.text", "student": "towers.picture", "kind": "contrastive", "weight": 0.1},
                ]
            },
            "train": train,
            "controls": {"no_distillation": False, "seeds": 1},
        },
        "prune": {
            "macs": 0.8,
            "ratios": [0.5],
            "round_to": 2,
            "probe_steps": 1,
            "max_drop": 1.0,
            "max_subset_drop": 1.0,
            "faster": False,
            "train": train | {"epochs": 2},
        },
        "quantize": {
            "candidates": ["fp32", "int8"],
            "max_drop": 1.0,
            "max_subset_drop": 1.0,
            "calibration": 40,
        },
        "export": {"targets": copy.deepcopy(TARGETS), "per_subset": True},
        "measure": {"runs": 20, "warmup": 2, "bootstrap": 100},
        "gates": {
            "distill": {"quality": 0.3, "subset.name": 0.3, "others.recall_at_5.text_to_picture": 0.3},
            "prune": {"quality": 0.2},
        },
    }


def write_digits(file):
    """600 of scikit-learn's written digits, and the name of each."""
    digits = load_digits()
    rows = [["id", *PIXELS, "name", "digit"]]
    rows += [[f"d{n}", *digits.data[n], NAMES[digits.target[n]], digits.target[n]] for n in range(600)]
    return write_table(file, rows)
