"""Float32 is float32 inside an extraction, whatever was switched on outside, and is switched back afterwards."""

from collections.abc import Iterator

import pytest
import torch

from richrep.features.forward import full_float32, tf32_products

B = torch.backends
PARTS = {
    "cuda.matmul": B.cuda.matmul,
    "cudnn.conv": B.cudnn.conv,
    "cudnn.rnn": B.cudnn.rnn,
    "mkldnn.matmul": B.mkldnn.matmul,
    "mkldnn.conv": B.mkldnn.conv,
    "mkldnn.rnn": B.mkldnn.rnn,
}
SWITCHES = {  # torch has two sets of them, which cannot be read through one another
    "nothing": lambda: None,
    "older, TF32": lambda: torch.set_float32_matmul_precision("high"),
    "newer, one part": lambda: setattr(B.cuda.matmul, "fp32_precision", "tf32"),
    "newer, convolutions in bf16": lambda: setattr(B.mkldnn.conv, "fp32_precision", "bf16"),
    "newer, all": lambda: setattr(B, "fp32_precision", "tf32"),
}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    B.fp32_precision = "none"
    for part in (B.cuda.matmul, B.mkldnn.matmul, B.mkldnn.conv, B.mkldnn.rnn):
        part.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")


def precisions() -> dict[str, str]:
    """By part; "none" is what is inherited, float32 by default."""
    return {name: part.fp32_precision.replace("none", "ieee") for name, part in PARTS.items()}


@pytest.mark.parametrize("switch", list(SWITCHES))
def test_products_are_float32_inside_and_as_before_outside(switch: str) -> None:
    SWITCHES[switch]()
    before = precisions()
    with full_float32():
        assert set(precisions().values()) == {"ieee"}
        with tf32_products():
            assert precisions()["cuda.matmul"] == "tf32" and precisions()["cudnn.conv"] == "ieee"
            torch.ones(2, 2) @ torch.ones(2, 2)
        assert set(precisions().values()) == {"ieee"}
    assert precisions() == before
