"""Towers that ship alone are cut again where the next candidate is taken."""

from types import SimpleNamespace

import pytest

from mmedge.contract import Contract
from mmedge.errors import MismatchError
from mmedge.spec import TextSpec
from mmedge.stages.export import towers
from mmedge.stages.export.engines import ExportWork

TEXT = TextSpec(kind="text", length=4)
HEAD = {"task": "retrieval", "towers": {"a": ["x"], "b": ["y"]}, "dimensions": 2}
CONTRACT = Contract.model_validate({"modalities": {"x": TEXT, "y": TEXT}, "heads": {"z": HEAD}})


def test_towers_that_differed_are_cut_again_from_the_next_candidate(monkeypatch, tmp_path):
    export = SimpleNamespace(towers=("a",), zero_shot=None)
    context = SimpleNamespace(recipe=SimpleNamespace(export=export), folder=tmp_path)
    work = ExportWork(SimpleNamespace(build=None), None, CONTRACT, context, [])
    failing = ["int8"]

    def check(work, contract, graph, precision):
        if precision in failing:
            raise MismatchError("they differ")

    monkeypatch.setattr(towers, "tower_graph", lambda *_: None)
    monkeypatch.setattr(towers, "_check", check)
    with pytest.raises(MismatchError):
        towers.alone(work, "int8")
    assert list(Contract.model_validate(towers.alone(work, "fp32").contract).modalities) == ["x"]
