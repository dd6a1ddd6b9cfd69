"""Where training runs: the device that was asked for, and what is refused."""

from __future__ import annotations

import os

import pytest
import torch

from richrep.errors import EngineError
from richrep.training import devices
from richrep.training.devices import make_accelerator


def test_the_cpu_is_the_cpu_and_the_environment_is_left_alone() -> None:
    before = dict(os.environ)
    made = make_accelerator("cpu", "fp32")
    assert made.device == torch.device("cpu") and made.num_processes == 1
    assert dict(os.environ) == before


def test_a_second_training_may_want_another_precision() -> None:
    assert make_accelerator("cpu", "fp32").mixed_precision == "no"
    assert make_accelerator("cpu", "bf16").mixed_precision == "bf16"
    assert make_accelerator("cpu", "fp32").mixed_precision == "no"


@pytest.mark.parametrize(
    ("capabilities", "says"),
    [
        ({"avx2": True, "avx512_bf16": False}, True),
        ({"avx512_bf16": True}, False),
        ({"amx_bf16": True}, False),
        ({}, False),
    ],
)
def test_bf16_without_arithmetic_for_it_is_said_once(capabilities, says: bool, monkeypatch, caplog) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    devices._say_if_bf16_is_slow.cache_clear()
    make_accelerator("cpu", "bf16"), make_accelerator("cpu", "bf16")
    make_accelerator("cpu", "fp32")
    devices._say_if_bf16_is_slow.cache_clear()
    assert caplog.text.count("no arithmetic for bf16") == int(says)


def test_fp16_on_the_cpu_is_refused() -> None:
    with pytest.raises(EngineError, match=r"fp16 cannot train on the CPU. Use --precision bf16 or fp32"):
        make_accelerator("cpu", "fp16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(EngineError, match="Device 'cuda' cannot be used"):
        make_accelerator("cuda", "fp32")


@pytest.mark.parametrize(
    ("name", "message"), [("gpu", "Device 'gpu' cannot be used"), ("mps", "Device 'mps' cannot be used")]
)
def test_what_is_no_device_is_refused(name: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        make_accelerator(name, "fp32")


def test_a_precision_that_is_none_is_refused() -> None:
    with pytest.raises(EngineError, match="Unknown precision 'fp8'"):
        make_accelerator("cpu", "fp8")  # type: ignore[arg-type]
