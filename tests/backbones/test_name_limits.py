"""State dicts and names beyond any network's."""

from __future__ import annotations

import pytest
import torch

from richrep.backbones.files.name_limits import check_names
from richrep.errors import CheckpointError

ONE = torch.zeros(1)


def test_sizes_of_real_files_pass() -> None:
    tensors = {f"module.trunk.blocks.{i}.attn.qkv.weight": ONE for i in range(15_000)}
    check_names({"state_dict": tensors, "ema": tensors, "epoch": 3}, where="x.pth")
    check_names({"a." * 49 + "w": ONE, "b" * 500: ONE}, where="x.pth")


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({f"w{i}": ONE for i in range(20_001)}, "x.pth holds 20,001 tensors by name, expected at most 20,000"),
        ({"a." * 50 + "w": ONE}, "whose name has 101 characters in 51 parts"),
        ({"b" * 501: ONE}, "whose name has 501 characters in 1 parts"),
    ],
)
def test_others_are_refused_wherever_they_lie(tensors: dict[str, torch.Tensor], text: str) -> None:
    for content in (tensors, {"model": {"trunk": tensors}}):
        with pytest.raises(CheckpointError, match=text):
            check_names(content, where="x.pth")


def test_a_container_that_contains_itself_is_checked_once() -> None:
    content: dict[str, object] = {"w": ONE}
    content["self"] = content
    check_names(content, where="x.pth")
