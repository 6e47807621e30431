"""A size to keep to: small numbers worked out by hand, and a run whose graph is as small."""

import pytest

from mmedge.recipe import Prune
from mmedge.report.schema import MissRecord
from mmedge.stages import prune
from mmedge.stages.prune import size
from tests.conftest import staged
from tests.stages.prune.test_prune import ANY_LOSS, SHORT


@pytest.fixture
def graph(tmp_path):
    """Of 10,000 bytes, of which 2,000 parameters are 8,000."""
    file = tmp_path / "model.onnx"
    file.write_bytes(bytes(10_000))
    return file


@pytest.mark.parametrize(
    ("kb", "budget", "share"),
    [(6, None, 0.5), (6, 0.3, 0.3), (6, 0.9, 0.5), (10, None, None), (1, None, 0.001), (None, 0.7, 0.7)],
)
def test_a_size_is_a_budget_of_parameters_and_the_lower_of_two_counts(graph, kb, budget, share):
    config = Prune(max_size_kb=kb, budget={"params": budget})
    assert size.within(config, graph, 2000).budget.params == (share and pytest.approx(share))


def test_what_is_missed_is_the_size_of_the_file_with_the_exit_of_what_stood_for_it(graph):
    params = MissRecord(name="prune.budget.params", limit=0.5, value=0.8, exit=3)
    macs = MissRecord(name="prune.budget.macs", limit=0.5, value=0.8, exit=4)
    assert size.misses(Prune(max_size_kb=10), graph, [params, macs]) == [macs]
    (miss,) = size.misses(Prune(max_size_kb=9), graph, [params])
    assert (miss.name, miss.limit, miss.value, miss.exit) == ("prune.max_size_kb", 9, 10.0, 3)
    assert size.misses(Prune(max_size_kb=9), graph, [])[0].exit == 4
    both = Prune(max_size_kb=10, budget={"params": 0.5})
    assert size.misses(both, graph, [params]) == [params]


@pytest.mark.long
def test_a_network_is_cut_until_its_graph_is_as_small(finished, context, untimed, tmp_path):
    parent = finished.artifact("distill")
    kb = parent.file("model.onnx").stat().st_size / 1000 * 0.9
    config = Prune(max_size_kb=kb, allocation="uniform", train=SHORT, **ANY_LOSS)
    made = staged(prune.prune, parent, config, context, tmp_path / "p")
    assert made.file("model.onnx").stat().st_size <= kb * 1000 and not made.meta["misses"]
