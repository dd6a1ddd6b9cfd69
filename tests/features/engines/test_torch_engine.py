from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from richrep.features.engines import ENGINES
from richrep.features.extract import extract_features

CPU = torch.device("cpu")


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(bool(ENGINES["torch-compile"].problem(CPU, "fp32")), reason="needs a C++ compiler")
def test_a_network_is_compiled_once_for_its_check_and_all_threads_and_batches(tiny, four_threads) -> None:
    trunk = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone = replace(tiny.make_backbone(), trunk=trunk.eval())
    expected = extract_features(backbone, tiny.make_split(70), device="cpu").features
    torch.compiler.reset()
    counters.clear()
    given = extract_features(backbone, tiny.make_split(70), engine="torch-compile", batch_size=4, device="cpu")
    assert counters["stats"]["unique_graphs"] == 1
    torch.testing.assert_close(given.features, expected, rtol=1e-4, atol=1e-5)
