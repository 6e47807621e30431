"""The reference of a recipe's keys is drawn from the models: it holds every key, and what it calls a default is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from mmedge.errors import UsageError
from mmedge.recipe import load
from mmedge.recipe.reference import SCHEMA_LINE, schema, sections

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def paths(value: Any, path: str = "") -> set[str]:
    """The keys that a recipe uses, each with its place."""
    if isinstance(value, dict):
        return {at for key, inner in value.items() for at in {f"{path}.{key}", *paths(inner, f"{path}.{key}")}}
    return {at for inner in value for at in paths(inner, f"{path}.N")} if isinstance(value, list) else set()


def test_every_key_that_a_recipe_of_ours_uses_is_in_the_reference():
    known = {section.path: {key.name for key in section.keys} for section in sections()}
    assert known["distill.loss.hints.N"] >= {"teacher", "student", "kind", "weight"}
    used = {path for file in RECIPES for path in paths(YAML(typ="safe").load(file))}
    for top in {path.split(".")[1] for path in used}:
        assert top in known[""], top
    for section in ("distill", "distill.loss", "distill.controls", "prune", "quantize", "measure"):
        theirs = {path.split(".")[-1] for path in used if path.rpartition(".")[0] == f".{section}"}
        assert theirs and theirs <= known[section], section


def test_a_key_is_told_with_type_limits_and_default():
    (loss,) = [section for section in sections("distill.loss") if section.path == "distill.loss"]
    told = {key.name: (key.takes, key.default) for key in loss.keys}
    assert told["kind"] == ("kd | dkd | dist", "kd") and told["temperature"] == ("number, > 0", "2.0")
    (image,) = [section for section in sections("data") if section.path.endswith("(image)")]
    assert ("crop", "none | center", "none") in {(key.name, key.takes, key.default) for key in image.keys}


def test_every_key_and_every_section_says_what_it_means_in_whole_sentences():
    for section in sections():
        assert section.text.endswith("."), section.path
        for key in section.keys:
            assert key.meaning[-1:] in (".", "?") and len(key.meaning) > 12, f"{section.path}.{key.name}"


def test_the_units_of_mean_and_std_are_told():
    (image,) = [section for section in sections("data.modalities") if section.path.endswith("(image)")]
    (mean,) = [key.meaning for key in image.keys if key.name == "mean"]
    assert "0 to 1" in mean and "/ 255" in mean


def test_the_json_schema_holds_for_recipes_of_ours_and_for_no_misspelt_one():
    jsonschema = pytest.importorskip("jsonschema")
    drawn = schema()
    assert (
        drawn["properties"]["distill"]["description"] and "description" in drawn["$defs"]["Loss"]["properties"]["beta"]
    )
    validator = jsonschema.Draft202012Validator(drawn)
    for file in RECIPES:  # by which an editor finds the schema: make writes it, as init does beside what it writes
        assert file.read_text(encoding="utf-8").startswith(f"{SCHEMA_LINE}\n"), file
        assert not list(validator.iter_errors(YAML(typ="safe").load(file))), file
    wrong = YAML(typ="safe").load(RECIPES[0])
    wrong["teacher"]["modle"] = {}
    assert any("modle" in error.message for error in validator.iter_errors(wrong))


def test_sections_with_the_same_keys_are_told_once():
    assert next(s for s in sections() if s.path == "distill.train").like == "teacher.train"


def test_an_unknown_section_is_refused_with_the_nearest_one():
    with pytest.raises(UsageError, match=r"did you mean 'distill'"):
        sections("distil")


def test_the_demo_finds_the_teacher_that_was_trained_elsewhere_to_be_its_own():
    """So that a run without --from, which repeats the demo, finds it made: of real recordings, which do not vary."""
    few, every = (load(RECIPES[0].with_name(f"avdigits{name}.yaml")) for name in ("", "-all-labels"))
    assert (few.teacher, few.data, few.seed) == (every.teacher, every.data, every.seed)
    assert few.distill.labels == 200 and every.distill.labels == "all"
