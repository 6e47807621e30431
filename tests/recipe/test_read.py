"""Reading recipes: every fault at once, each with its line and, where one is near, the key that was meant."""

import json
from pathlib import Path

import pytest

from mmedge import recipe
from mmedge.errors import UsageError
from tests.conftest import REPOSITORY

GOOD = """\
schema: 1
name: t
data:
  manifest: m.csv
  modalities:
    image: {kind: image, height: 8, width: 8, channels: 1}
    audio: {kind: audio}
teacher:
  model: {embedding: 8}
distill:
  train: {epochs: 3}
gates:
  distill: {quality: 0.5}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


def faults(tmp_path, text, *overrides) -> str:
    with pytest.raises(UsageError) as raised:
        recipe.load(written(tmp_path, text), overrides)
    assert raised.value.exit_code == 2
    return str(raised.value)


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_of_the_repository_loads_and_resolves_to_itself(path):
    loaded = recipe.load(path)
    assert recipe.parse(loaded.resolved(), where=path).resolved() == loaded.resolved()


def test_the_good_recipe_has_its_values_and_the_defaults(tmp_path):
    loaded = recipe.load(written(tmp_path, GOOD))
    assert loaded.teacher.model.embedding == 8 and loaded.teacher.model.hidden == 64
    assert loaded.stages == ["teacher", "distill", "export-onnxruntime-cpu"]
    assert loaded.data.manifest == tmp_path / "m.csv"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: t", "nmae: t", ["unknown key 'nmae'", "did you mean 'name'", "'name' is missing"]),
        ("embedding: 8", "embeding: 8", ["'teacher.model.embeding'", "did you mean 'embedding'"]),
        ("epochs: 3", "epoch: 3", ["'distill.train.epoch'", "did you mean 'epochs'"]),
        ("height: 8", "heigth: 8", ["image.heigth'", "did you mean 'height'"]),
        ("channels: 1", "channels: 2", ["data.modalities.image.channels", "not 2"]),
        ("kind: image", "kind: imag", ["data.modalities.image", "imag"]),
        ("epochs: 3", "epochs: many", ["distill.train.epochs", "not 'many'"]),
        ("epochs: 3", "epochs: 0", ["distill.train.epochs", "greater than or equal to 1", "not 0"]),
        ("schema: 1", "schema: 2", ["schema", "not 2"]),
        ("  manifest: m.csv", "  dataset: avdigit", ["did you mean 'avdigits'"]),
        ("  manifest: m.csv", "  manifest: m.csv\n  dataset: avdigits", ["either 'dataset' or 'manifest'"]),
        ("  manifest: m.csv", "  manifest: m.csv\n  recordings: r", ["'recordings' belongs"]),
        ("  manifest: m.csv", "  manifest: m.csv\n  ratios: {train: 1, validation: 0, test: 0}", ["'ratios'"]),
        ("    audio:", "    present:", ["cannot be called 'present'"]),
        ("    audio:", "    fusion:", ["cannot be called 'fusion'", "fusion_input"]),
        ("  manifest: m.csv", "  manifest: m.csv\n  targets: {type: {}, label: {}}", ["head cannot be called 'type'"]),
        ("    audio:", "    class:", ["Python identifier, no keyword"]),
        ("name: t", "name: ../elsewhere", ["name: must be plain words", "not '../elsewhere'"]),
        ("name: t", "name: /tmp/elsewhere", ["name: must be plain words"]),
        ("name: t", 'name: "[/x]"', ["name: must be plain words"]),
        (
            "  manifest: m.csv",
            "  manifest: m.csv\n  task: regresion",
            ["data.task", "did you mean 'regression'", "'multilabel'"],
        ),
        ("kind: audio", "kind: adio", ["data.modalities.audio", "did you mean 'audio'"]),
        ("{embedding: 8}", "{factory: mine}", ["must be 'module:factory'"]),
        ("{embedding: 8}", "{encoders: {imag: {}}}", ["no modality 'imag'", "did you mean 'image'"]),
        ("epochs: 3", "augment: {audoi: {}}", ["distill.train.augment", "did you mean 'audio'"]),
        ("distill: {quality", "distil: {quality", ["no stage 'distil'", "did you mean 'distill'"]),
        ("{quality: 0.5}", "{qualty: 0.5}", ["unknown figure 'qualty'", "did you mean 'quality'"]),
        ("{quality: 0.5}", "{subset.imag: 0.5}", ["no subset of modalities 'imag'", "did you mean 'image'"]),
        ("  distill: {quality", "  teacher: {gain", ["'gain' is a figure of the stage distill alone"]),
        ("train: {epochs: 3}", "loss: {labels: 0, logits: 0}", ["every weight is 0"]),
        ("train: {epochs: 3}", "labels: 0", ["distill.labels", "at least 1"]),
        ("quality: 0.5", "quality: .nan", ["gates.distill.quality", "finite"]),
        ("  distill: {quality", "  confidense: 0.9\n  distill: {quality", ["'confidense' is no key", "'confidence'"]),
        ("  distill: {quality", "  policy: strikt\n  distill: {quality", ["gates.policy", "did you mean 'strict'"]),
        ("epochs: 3", "learning_rate: .inf", ["distill.train.learning_rate", "finite"]),
        ("schema: 1", "schema: 1\nseed: 9999999999", ["seed", "not 9999999999"]),
        ("{embedding: 8}", "{modalities: []}", ["teacher.model.modalities", "at least one"]),
        ("{embedding: 8}", "{modalities: [image, image]}", ["teacher.model.modalities", "each once"]),
        ("{embedding: 8}", "{encoders: {image: {widths: [0]}}}", ["encoders.image.widths", "not 0"]),
        ("model: {embedding: 8}", "train: null", ["teacher", "model.weights"]),
    ],
)
def test_a_fault_is_told_with_its_key_and_what_was_meant(tmp_path, old, new, said):
    assert old in GOOD
    told = faults(tmp_path, GOOD.replace(old, new, 1))
    for part in said:
        assert part in told, told


@pytest.mark.parametrize(
    ("old", "new"),
    [("name: t", "nmae: t"), ("embedding: 8", "embeding: 8"), ("epochs: 3", "epochs: 0"), ("height: 8", "height: x")],
)
def test_a_fault_is_told_with_its_line(tmp_path, old, new):
    text = GOOD.replace(old, new)
    assert f"r.yaml:{line_of(text, new)}: " in faults(tmp_path, text)


def test_all_faults_are_told_at_once(tmp_path):
    told = faults(tmp_path, GOOD.replace("name: t", "nmae: t").replace("epochs: 3", "epochs: 0"))
    assert "the recipe has 3 faults" in told and len(told.splitlines()) == 4
    several = GOOD.replace("{quality: 0.5}", "{qualty: 0.5}").replace("epochs: 3", "augment: {audoi: {}}")
    assert "the recipe has 2 faults" in faults(tmp_path, several)


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\tname: x", "a: 1\na: 2", "name: !!python/object:os.system x"])
def test_what_is_not_plain_yaml_is_one_error(tmp_path, text):
    assert "r.yaml" in faults(tmp_path, text)


@pytest.mark.parametrize("text", ["", "- a", "just text", "3"])
def test_what_is_not_a_mapping_is_one_error(tmp_path, text):
    assert "mapping" in faults(tmp_path, text)


def test_a_missing_recipe_and_a_binary_one_are_errors(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        recipe.load(tmp_path / "nowhere.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        recipe.load(tmp_path / "b.yaml")


def test_overrides_reach_any_depth_and_are_read_as_yaml(tmp_path):
    file = written(tmp_path, GOOD)
    loaded = recipe.load(file, ("teacher.train.epochs=7", "prune.macs=0.5", "distill.labels=20", "measure={runs: 30}"))
    assert loaded.teacher.train.epochs == 7 and loaded.prune.macs == 0.5 and loaded.distill.labels == 20
    assert loaded.measure.runs == 30


def test_a_path_that_is_set_is_relative_to_where_it_was_typed(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    loaded = recipe.load(
        written(tmp_path, GOOD),
        (
            "data.modalities.words={kind: text}",
            "data.modalities.words.tokenizer_file=t.json",
            "data.manifest=m.csv",
            "data.align.pulse={file: p.csv, tolerance: 1}",
            "data.align.pulse.file=q.csv",
            "teacher.train.augment.audio={snr: [5, 20], noise_folder: noises}",
            "distill.train.augment.audio={room: 0.3}",
            "distill.train.augment.audio.room_folder=rooms",
            "distill.teachers=[{artifact: runs/a/teacher}]",
        ),
    )
    assert loaded.teacher.train.augment["audio"].noise_folder == tmp_path / "here" / "noises"
    assert loaded.distill.train.augment["audio"].room_folder == tmp_path / "here" / "rooms"
    assert loaded.distill.teachers[0].artifact == tmp_path / "here" / "runs" / "a" / "teacher"
    assert loaded.data.manifest == tmp_path / "here" / "m.csv"
    assert loaded.data.modalities["words"].tokenizer_file == tmp_path / "here" / "t.json"
    assert loaded.data.align["pulse"].file == tmp_path / "here" / "q.csv"


def test_an_override_is_checked_like_the_file(tmp_path):
    assert "did you mean 'epochs'" in faults(tmp_path, GOOD, "distill.train.epoch=3")
    assert "export.targets: must hold" in faults(tmp_path, GOOD, "export.targets.tensorrt-rtx={}")
    assert "key=value" in faults(tmp_path, GOOD, "distill")
    assert "no keys below it" in faults(tmp_path, GOOD, "name.x=1")
    assert "not valid YAML" in faults(tmp_path, GOOD, "name=[")
    assert "no keys below it" in faults(tmp_path, GOOD, "data.manifest.x.y=1")


def test_an_override_leaves_the_other_targets_of_an_anchor_alone(tmp_path):
    text = GOOD.replace("  model: {embedding: 8}", "  train: &s {epochs: 5}").replace("train: {epochs: 3}", "train: *s")
    loaded = recipe.load(written(tmp_path, text), ("teacher.train.epochs=9",))
    assert loaded.teacher.train.epochs == 9 and loaded.distill.train.epochs == 5


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "embedding: 8}",
            "embedding: 8}\n  preprocessing: {adio: {kind: audio}}",
            "teacher.preprocessing: .*did you mean 'audio'",
        ),
        ("embedding: 8}", "embedding: 8, modalities: [imgae]}", "teacher.model.modalities: .*did you mean 'image'"),
        ("embedding: 8}", "embedding: 8}\n  onnx: a.onnx\n  outputs: o.csv", "either 'onnx' or 'outputs'"),
        ("train: {epochs: 3}", "teachers: [{weight: 2}]", "distill.teachers.0: name one of 'artifact', 'onnx'"),
        ("train: {epochs: 3}", "teachers: [{onnx: a.onnx, artifact: b}]", "name one of"),
        (
            "train: {epochs: 3}",
            "teachers: [{onnx: a, model: {inputs: {sound: s}}}]",
            "teachers.0.model.inputs: .*'sound'",
        ),
        (
            "train: {epochs: 3}",
            "model: {modalities: [image], hallucinate: [imgae]}",
            "distill.model.hallucinate: .*did you mean 'image'",
        ),
        ("train: {epochs: 3}", "teachers: [{onxn: a}]", "unknown key 'distill.teachers.0.onxn' .*did you mean 'onnx'"),
    ],
)
def test_faults_of_teachers_are_told_with_their_keys(tmp_path, old, new, said):
    import re

    assert re.search(said, faults(tmp_path, GOOD.replace(old, new)))


def test_paths_of_teachers_are_relative_to_the_recipe_and_classes_may_be_numbers(tmp_path):
    text = GOOD.replace("embedding: 8}", "embedding: 8}\n  outputs: o.csv\n  classes: {nil: 0, 1: one, other: null}")
    text = text.replace("train: {epochs: 3}", "teachers: [{artifact: a/teacher}, {onnx: b.onnx, weight: 0.5}]")
    loaded = recipe.load(written(tmp_path, text))
    assert loaded.teacher.outputs == tmp_path / "o.csv" and loaded.teacher.classes == {
        "nil": "0",
        "1": "one",
        "other": None,
    }
    first, second = loaded.distill.teachers
    assert first.artifact == tmp_path / "a/teacher" and second.onnx == tmp_path / "b.onnx"


def test_a_precision_that_a_target_lacks_is_told_with_what_it_has(tmp_path):
    said = faults(
        tmp_path, GOOD, "export.targets.onnxruntime-cpu={}", "export.targets.onnxruntime-cuda={precision: int8}"
    )
    assert "onnxruntime-cuda lacks int8" in said and "name fp16" in said
    assert "bf16" in faults(tmp_path, GOOD, "export.targets.onnxruntime-cpu={precision: bf16}")
    portable = "export.targets={onnxruntime-cpu: {}, tensorrt-rtx: {version_compatible: true}}"
    assert "tensorrt-rtx builds no engine that is 'version_compatible'" in faults(tmp_path, GOOD, portable)


def test_an_option_of_tensorrt_under_another_target_is_left_out_as_version_0_1_ignored_it(tmp_path):
    targets = "export.targets={onnxruntime-cpu: {workspace_mb: 64, max_batch: 4}, openvino-cpu: {}}"
    export = recipe.load(written(tmp_path, GOOD), (targets,)).export
    assert export.targets["onnxruntime-cpu"].max_batch == 4 and "workspace" not in str(export.model_dump())
    assert list(export.unheeded) == ["export.targets.onnxruntime-cpu.workspace_mb"]
    assert "unknown key" in faults(tmp_path, GOOD, "export.targets.onnxruntime-cpu={workspace: 64}")


@pytest.mark.parametrize(
    ("teacher", "trained"),
    [
        ("{model: {embedding: 8}}", True),
        ("{model: {weights: w.safetensors}}", False),
        ("{model: {weights: w.safetensors}, train: {epochs: 2}}", True),
        ("{onnx: t.onnx}", False),
        ("{outputs: t.csv}", False),
    ],
)
def test_a_teacher_of_a_file_is_trained_only_where_the_recipe_says_so(tmp_path, teacher, trained):
    text = GOOD.replace("teacher:\n  model: {embedding: 8}", f"teacher: {teacher}")
    assert recipe.load(written(tmp_path, text)).teacher.trained_here is trained


def test_a_fault_of_what_set_gave_names_set_and_not_a_line_of_the_file(tmp_path):
    told = faults(tmp_path, GOOD, "distill.train.epoch=3", "teacher.model={embeding: 4}")
    assert "--set: unknown key 'distill.train.epoch' (did you mean 'epochs'?)" in told
    assert "--set: unknown key 'teacher.model.embeding'" in told and "r.yaml:" not in told


def test_a_table_in_place_of_a_recipe_is_told_of_init(tmp_path):
    (tmp_path / "m.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"mmedge init .*m\.csv"):
        recipe.load(tmp_path / "m.csv")


def test_what_a_misspelt_word_meant_is_what_the_rest_is_judged_by(tmp_path):
    text = GOOD.replace("  manifest: m.csv", "  manifest: m.csv\n  task: regresion").replace(
        "kind: audio", "kind: adio"
    )
    with pytest.raises(recipe.InvalidRecipe) as raised:
        recipe.load(written(tmp_path, text))
    assert len(raised.value.lines) == 2 and raised.value.rest is not None
    assert raised.value.rest.data.task == "regression" and raised.value.rest.data.modalities["audio"].kind == "audio"


def test_a_faulty_key_of_several_forms_leaves_its_section(tmp_path):
    text = GOOD.replace("train: {epochs: 3}", "labels: some\n  train: {epochs: 3}")
    with pytest.raises(recipe.InvalidRecipe) as raised:
        recipe.load(written(tmp_path, text))
    assert raised.value.rest is not None and raised.value.rest.distill.train.epochs == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x: " + "[" * 3000 + "]" * 3000, "nests more than 50 deep"),
        ("".join("  " * i + "a:\n" for i in range(300)), "nests more than 50 deep"),
        ("a: &a [*a]", "faults"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)),
            "unfolds to more than",
        ),
        (GOOD + "x: " + "a" * 3_000_000, "no recipe is so long"),
        (GOOD.replace("name: t", 'name: "\\ud800"'), "half a surrogate pair"),
        (GOOD.replace("m.csv", '"a\\0b"'), "data.manifest: .* NUL"),
        (GOOD + "seed: " + "9" * 5000, "not valid YAML"),
        (GOOD + "seed: 0x" + "f" * 50, "more than 64 bits"),
        (GOOD + "x: 2020-13-45", "not valid YAML"),
        (GOOD + "x: !!binary aGVsbG8=", "no bytes"),
        (GOOD + "1: a\n'1': b", "stands twice"),
    ],
)
def test_what_no_recipe_holds_is_refused_at_once(tmp_path, text, said):
    import re
    import time

    began = time.process_time()
    assert re.search(said, faults(tmp_path, text))
    assert time.process_time() - began < 5


def test_a_value_of_a_million_characters_is_told_in_a_line(tmp_path):
    told = faults(tmp_path, GOOD.replace("{epochs: 3}", "{epochs: " + "a" * 1_000_000 + "}"))
    assert "distill.train.epochs" in told and len(told) < 1000


def test_brackets_in_comments_and_quotes_do_not_nest(tmp_path):
    text = f"# {'[' * 200}\n" + GOOD.replace("name: t", f"name: t # {'{' * 200}") + f'seed: 1 # it\'s "{"[" * 90}"\n'
    assert recipe.load(written(tmp_path, text)).seed == 1


def test_no_modality_is_called_what_the_network_that_holds_it_has_already():
    from torch import nn

    from mmedge.recipe.data import RESERVED

    # transformers, where another test has imported it, gives every module methods of its own.
    own = nn.ModuleDict()
    theirs = {
        name for name in dir(own) if str(getattr(getattr(own, name), "__module__", "")).startswith("transformers")
    }
    assert {name for name in dir(own) if not name.startswith("_")} - theirs <= RESERVED


@pytest.mark.parametrize(
    "name", ["fusion", "logits", "target", "json", "threads", "present", "out", "self.x", "a b", "[/x]"]
)
def test_a_modality_whose_name_means_something_elsewhere_is_told(tmp_path, name):
    text = GOOD.replace("audio: {kind", f"{json.dumps(name)}: {{kind")
    told = faults(tmp_path, text)
    assert "a modality cannot be called" in told or "must be a Python identifier" in told


@pytest.mark.parametrize(
    ("section", "told"),
    [("teacher", "a limit on what it makes is a gate"), ("distill", "every loss of 'candidates' is tried")],
)
def test_a_stage_without_a_budget_has_no_on_miss_and_says_why(tmp_path, section, told):
    text = GOOD.replace(f"{section}:\n", f"{section}:\n  on_miss: stop\n", 1)
    assert f"'on_miss' is not of this stage: {told}" in faults(tmp_path, text).replace(
        "it has no budget of its own; ", ""
    )
