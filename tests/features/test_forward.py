"""Float32 is float32 inside an extraction, whatever was switched on outside, and is switched back afterwards."""

import subprocess
import sys

import pytest

SWITCHES = {  # torch has two sets of them, which cannot be read through one another
    "older, TF32": "torch.set_float32_matmul_precision('high')",
    "newer, one part": "B.cuda.matmul.fp32_precision = 'tf32'",
    "newer, convolutions in bf16": "B.mkldnn.conv.fp32_precision = 'bf16'",
    "newer, all": "B.fp32_precision = 'tf32'",
}
# In a process of its own: what is switched holds for all of it, and not all of it can be switched back.
PROGRAM = """
import torch
from richrep.features.forward import full_float32, tf32_products
B = torch.backends
parts = [B.cuda.matmul, B.cudnn.conv, B.cudnn.rnn, B.mkldnn.matmul, B.mkldnn.conv, B.mkldnn.rnn]

def precisions():  # "none" is what is inherited, float32 by default
    return [part.fp32_precision.replace("none", "ieee") for part in parts]

{switch}
before, cudnn = precisions(), (B.cudnn.benchmark, B.cudnn.deterministic)
with full_float32():
    assert set(precisions()) == {{"ieee"}}, precisions()
    assert (B.cudnn.benchmark, B.cudnn.deterministic) == (False, True)
    with tf32_products():
        assert precisions()[:3] == ["tf32", "ieee", "ieee"], precisions()
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert set(precisions()) == {{"ieee"}}, precisions()
assert precisions() == before and (B.cudnn.benchmark, B.cudnn.deterministic) == cudnn
"""


@pytest.mark.parametrize("switch", list(SWITCHES))
def test_products_are_float32_inside_and_as_before_outside(switch: str) -> None:
    program = PROGRAM.format(switch=SWITCHES[switch])
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
