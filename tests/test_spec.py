"""Modality specs and the contract of a model."""

import pytest
from pydantic import ValidationError

from mmedge.contract import Contract, subsets
from mmedge.spec import ArraySpec, AudioSpec, ImageSpec, TabularSpec


def test_subsets_are_all_non_empty_ones_smallest_first():
    assert subsets(["a", "b", "c"]) == [("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")]
    assert subsets(["a"]) == [("a",)]


def test_shapes_follow_from_the_specs():
    assert ImageSpec(kind="image", height=8, width=6, channels=1).shape == (1, 8, 6)
    audio = AudioSpec(kind="audio", sample_rate=8000, mels=16, frames=24, hop_ms=32, window_ms=32)
    assert audio.shape == (1, 16, 24) and audio.samples == 24 * 32 * 8
    assert TabularSpec(kind="tabular", columns=("a", "b")).shape == (2,)
    assert ArraySpec(kind="array", shape=(2, 3)).shape == (2, 3)


def test_a_spec_cannot_be_written_to_and_takes_no_unknown_key():
    spec = ImageSpec(kind="image")
    with pytest.raises(ValidationError):
        spec.height = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        ImageSpec(kind="image", heigth=3)  # type: ignore[call-arg]


def test_a_contract_survives_json_with_every_kind():
    contract = Contract(
        task="classification",
        modalities={
            "image": ImageSpec(kind="image", mean=(0.1, 0.2, 0.3), std=(1, 1, 1)),
            "audio": AudioSpec(kind="audio"),
            "vitals": TabularSpec(kind="tabular", columns=("a",)),
            "sensor": ArraySpec(kind="array", shape=(6, 100)),
        },
        labels=("no", "yes"),
    )
    assert Contract.model_validate(contract.model_dump(mode="json", by_alias=True)) == contract


def test_only_keeps_the_contracts_order_whatever_order_is_asked_for():
    contract = Contract(
        task="regression", modalities={"image": ImageSpec(kind="image"), "audio": AudioSpec(kind="audio")}
    )
    assert list(contract.only(["audio", "image"]).modalities) == ["image", "audio"]
    assert list(contract.only(["audio"]).modalities) == ["audio"]
    assert contract.width("logits") == 1 and (contract.output, contract.labels) == ("logits", ())


@pytest.mark.parametrize(
    "given",
    [
        {"mean": (0.5,)},  # without std nothing would be normalised, in silence
        {"std": (0.5,)},
        {"mean": (0.1, 0.2), "std": (1.0, 1.0)},  # two values for one channel
        {"mean": (0.1,), "std": (0.0,)},
    ],
)
def test_statistics_that_do_not_fit_the_modality_are_refused(given):
    with pytest.raises(ValidationError):
        ImageSpec(kind="image", channels=1, **given)
