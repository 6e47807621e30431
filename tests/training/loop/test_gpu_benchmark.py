"""The benchmark for GPUs runs; its figures are made where there is one."""

import pytest

from tests.benchmarks import gpu


def test_without_a_gpu_it_says_that_nothing_was_measured(capsys, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    gpu.main([])
    assert "nothing was measured" in capsys.readouterr().out


def test_its_teacher_is_resnet_50_in_size():
    with gpu.torch.device("meta"):
        module = gpu.ResNet(gpu.Size().blocks, gpu.Size().width)
    assert sum(weight.numel() for weight in module.parameters()) == 25_557_032  # torchvision's count


@pytest.mark.long
def test_every_way_runs_with_a_tiny_network(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.torch, "compile", lambda module: module)  # a minute of a C++ compiler
    lines = [line for line in gpu.measured(tmp_path, gpu.TINY).splitlines() if line.startswith("|")]
    names = [line.split("|")[1].strip() for line in lines]
    assert len(lines) == 2 * 2 + 5 + 2 and "precision bf16, compile True" in names and "its outputs are kept" in names
