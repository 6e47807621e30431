"""Building TensorRT engines: the builder's settings, against a stand-in that keeps what it was given. tensorrt-rtx itself is
built with in tests/stages/test_export_tensorrt.py."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from mmedge.backends import tensorrt
from mmedge.backends.backend import Job


class Cache:
    def __init__(self, content):
        self.content = content

    def serialize(self):
        return self.content + b"+timed"


class Config:
    """A builder's config as TensorRT 10 and 11 have it; ``refuses``: caches that are of another version or GPU."""

    def __init__(self, refuses=()):
        self.refuses, self.cache, self.flags, self.pools = refuses, None, [], {}

    def create_timing_cache(self, content):
        return Cache(content)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        if cache.content in self.refuses:
            return False
        self.cache = cache
        return True

    def set_flag(self, flag):
        self.flags.append(flag)

    def set_memory_pool_limit(self, pool, size):
        self.pools[pool] = size


def module(name="tensorrt", *, levels=("AMPERE_PLUS",), strongly_typed=True):
    typed = SimpleNamespace(STRONGLY_TYPED=1) if strongly_typed else SimpleNamespace()
    return SimpleNamespace(
        __name__=name,
        NetworkDefinitionCreationFlag=typed,
        ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        BuilderFlag=SimpleNamespace(VERSION_COMPATIBLE="versions", SPARSE_WEIGHTS="zeros"),
        HardwareCompatibilityLevel=SimpleNamespace(**dict.fromkeys(levels, "ampere and newer")),
    )


def job(timings=None, **options):
    return Job(Path("model.onnx"), "engine", {}, tensorrt.Options(**options), timings=timings)


def configured(job, config, trt=None):
    notes = []
    return tensorrt._configure(trt or module(), config, job, notes), notes


def test_the_timing_cache_that_was_kept_is_used_and_added_to(tmp_path):
    asked = job(tmp_path / "work/cache")
    first = Config()
    cache, notes = configured(asked, first)
    assert first.cache is cache and cache.content == b"" and not notes
    tensorrt._keep(cache, asked.timings)
    second = Config()
    configured(asked, second)
    assert second.cache.content == b"+timed"


def test_a_timing_cache_of_another_version_is_begun_anew(tmp_path):
    (tmp_path / "cache").write_bytes(b"old")
    config = Config(refuses=[b"old"])
    cache, notes = configured(job(tmp_path / "cache"), config)
    assert config.cache is cache and cache.content == b"" and not notes
    cache, notes = configured(job(tmp_path / "cache"), Config(refuses=[b"old", b""]))
    assert cache is None and "no timing cache" in notes[0]


def test_tensorrt_for_rtx_which_keeps_no_timings_gets_no_cache(tmp_path):
    config = Config()
    asked = job(tmp_path / "cache")
    cache, notes = configured(asked, config, module("tensorrt_rtx"))
    assert cache is None and config.cache is None and not notes
    tensorrt._keep(cache, asked.timings)
    assert not (tmp_path / "cache").exists()


def test_every_option_reaches_the_builder_and_what_a_version_lacks_is_noted():
    config = Config()
    asked = job(workspace_mb=64, level=4, version_compatible=True, hardware_compatible=True)
    assert configured(asked, config) == (None, [])
    assert config.pools == {"workspace": 64 << 20} and config.builder_optimization_level == 4
    assert config.flags == ["zeros", "versions"] and config.hardware_compatibility_level == "ampere and newer"
    assert config.profiling_verbosity == "detailed"
    _, notes = configured(asked, Config(), module(levels=()))
    assert "hardware compatibility" in notes[0]


@pytest.mark.parametrize(("typed", "flags"), [(True, 2), (False, 0)])
def test_networks_are_strongly_typed_by_flag_on_10_and_by_nature_on_11(typed, flags):
    assert tensorrt._strongly_typed(module(strongly_typed=typed)) == flags
