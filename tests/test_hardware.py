"""What is asked of a machine, on machines that are not here."""

from __future__ import annotations

import pytest
import torch

from omnivision import hardware


@pytest.mark.parametrize(("text", "found"), [("processor : 0\nflags\t\t: fpu avx2 amx_bf16 amx_tile\n", True), ("flags : avx512_bf16\n", True),
                                             ("flags : avx512f avx2\n", False),
                                             ("Features : fp asimd\n", False), ("model name : amx_bf16\n", False), ("", False)])
def test_bf16_of_a_processor_is_read_from_its_flags(tmp_path, monkeypatch, text, found):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(hardware, "CPU_INFO", tmp_path / "cpuinfo")
    assert hardware.cpu_has_bf16() is found and hardware.fast_precision() == ("bf16" if found else "fp32")
    monkeypatch.setattr(hardware, "CPU_INFO", tmp_path / "none")
    assert not hardware.cpu_has_bf16()


def test_a_gpu_that_emulates_bf16_has_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert hardware.fast_precision() == "fp32"


@pytest.mark.parametrize("gpu", [True, False])
def test_a_gpu_does_without_attention_that_plans_for_every_shape(monkeypatch, gpu):
    said = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", said.append)
    hardware.avoid_attention_plans()
    assert said == [False] * gpu


@pytest.mark.parametrize(("files", "cores"), [({"cpu.max": "150000 100000"}, 2), ({"cpu.max": "max 100000"}, 8), ({"cpu.max": "20000 100000"}, 1),
                                              ({}, 8), ({"cpu.max": ""}, 8), ({"cpu.cfs_quota_us": "-1"}, 8),
                                              ({"cpu.cfs_quota_us": "300000\n", "cpu.cfs_period_us": "100000\n"}, 3)])
def test_a_containers_share_of_time_counts_as_cores(tmp_path, monkeypatch, files, cores):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(hardware, "QUOTAS", (tmp_path / "cpu.max", tmp_path / "cpu.cfs_quota_us"))
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda process: set(range(8)))
    assert hardware.usable_cores() == cores


def test_busy_cores_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "STAT", tmp_path / "stat")
    monkeypatch.setattr(hardware.os, "cpu_count", lambda: 4)
    lines = iter(["cpu 100 0 0 100 0 0 0 0 0 0\n", "cpu 140 10 10 130 10 0 0 0 0 0\n"])  # of 100 ticks 40 idle
    monkeypatch.setattr(hardware.time, "sleep", lambda seconds: (tmp_path / "stat").write_text(next(lines)))
    hardware.time.sleep(0)
    assert hardware.busy_cores() == pytest.approx(4 * 0.6)
    (tmp_path / "stat").unlink()
    monkeypatch.setattr(hardware.time, "sleep", lambda seconds: None)
    assert hardware.busy_cores() == 0.0
