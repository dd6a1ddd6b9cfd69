"""What every engine promises, in every precision that this machine has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from richrep.backbones.backbone import Backbone
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.features.engines import ENGINES
from richrep.features.engines.choose import TOLERANCES, relative_error
from richrep.features.engines.engine import Forward, Work
from richrep.features.forward import inference

CPU = torch.device("cpu")
BATCH = 4


def make_backbone(seed: int = 0) -> Backbone:
    """Convolutions, batch norm, one group a channel, a masked layer, a head; all of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        trunk = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Conv2d(8, 16, 1),
            nn.ReLU(),
        )
        trunk[1].running_mean.uniform_(-0.2, 0.2)
        trunk[1].running_var.uniform_(0.5, 2.0)
        trunk[4].weight.data[:, ::2] = 0
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    return Backbone(
        trunk=trunk,
        pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        head=head,
        num_classes=5,
        preprocessing=Preprocessing(Geometry((20, 12), None)),
        address="memory/small",
        name="small",
        family="test",
        architecture="test",
        feature_dim=16,
    )


def reference(backbone: Backbone, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The plain forward pass in evaluation mode."""
    with torch.no_grad():
        hidden = images
        for part in backbone.trunk:
            hidden = (
                F.batch_norm(hidden, part.running_mean, part.running_var, part.weight, part.bias)
                if isinstance(part, nn.BatchNorm2d)
                else part(hidden)
            )
        return {"features": backbone.pool(hidden), "logits": backbone.head(hidden)}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(11, 3, 20, 12, generator=generator).contiguous(memory_format=torch.channels_last)


@pytest.fixture(scope="module", params=[(name, p) for name in ENGINES for p in TOLERANCES], ids="-".join)
def work(request: pytest.FixtureRequest) -> tuple[str, Work]:
    name, precision = request.param
    problem = ENGINES[name].problem(CPU, precision)
    if problem:
        pytest.skip(problem)
    layers = ("logits", "features")
    return name, Work(make_backbone(), layers, precision, BATCH, CPU, num_batches=2)


@pytest.fixture(scope="module")
def forward(work: tuple[str, Work]) -> Iterator[Forward]:
    name, what = work
    with ENGINES[name].prepare(what) as prepared:
        yield prepared


def run(forward: Forward, images: torch.Tensor) -> dict[str, torch.Tensor]:
    with inference(CPU):
        return {layer: values.clone() for layer, values in forward(images).items()}


def test_all_layers_of_one_pass_are_within_the_tolerance_of_a_plain_forward_pass(work, forward, images) -> None:
    given, expected = run(forward, images[:BATCH]), reference(make_backbone(), images[:BATCH])
    assert set(given) == {"features", "logits"}
    for layer, values in given.items():
        assert values.dtype == torch.float32 and values.shape == expected[layer].shape
        assert relative_error(values, expected[layer]) <= TOLERANCES[work[1].precision]


def test_precision_is_what_it_says(work, forward, images) -> None:
    given, expected = run(forward, images[:BATCH])["features"], reference(make_backbone(), images[:BATCH])["features"]
    error = relative_error(given, expected)
    assert error < 1e-5 if work[1].precision == "fp32" else error > 1e-4  # 16 bits hold two or three digits


def test_a_short_batch_gives_what_the_full_one_gives_for_its_rows(work, forward, images) -> None:
    full, short = run(forward, images[:BATCH]), run(forward, images[: BATCH - 1])
    for layer in full:
        assert short[layer].shape[0] == BATCH - 1
        assert relative_error(short[layer], full[layer][: BATCH - 1]) <= TOLERANCES[work[1].precision]


def test_the_order_of_the_images_does_not_matter(work, forward, images) -> None:
    order = torch.tensor([2, 0, 3, 1])
    given, shuffled = run(forward, images[:BATCH]), run(forward, images[:BATCH][order])
    assert relative_error(shuffled["features"], given["features"][order]) <= TOLERANCES[work[1].precision]


def test_two_threads_at_once_get_their_own_results(work, forward, images) -> None:
    batches = [images[:4], images[4:8], images[8:]] * 8
    expected = [run(forward, batch)["features"] for batch in batches[:3]]
    together = threading.Barrier(2)

    def one(batch: torch.Tensor) -> torch.Tensor:
        together.wait(timeout=60)
        return run(forward, batch)["features"]

    with ThreadPoolExecutor(2) as pool:
        for i, got in enumerate(pool.map(one, batches)):
            torch.testing.assert_close(got, expected[i % 3], rtol=1e-5, atol=1e-5)


def test_modules_are_given_back_as_they_were_and_nothing_is_printed(work, capfd) -> None:
    name, what = work
    if name == "torch-compile":
        pytest.skip("compiles once more; the modules are prepared by the same lines as for torch")
    backbone = make_backbone()
    backbone.trunk.train()
    tensors = list(backbone.trunk.state_dict(keep_vars=True).values())
    before = [(t.data_ptr(), t.dtype, t.stride(), t.clone()) for t in tensors]
    with ENGINES[name].prepare(replace(what, backbone=backbone)):
        pass
    assert capfd.readouterr() == ("", "")
    assert all(part.training for part in backbone.trunk.modules())
    for tensor, (address, dtype, stride, value) in zip(tensors, before, strict=True):
        assert (tensor.data_ptr(), tensor.dtype, tensor.stride()) == (address, dtype, stride)
        assert torch.equal(tensor, value)


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_says_what_it_is_and_refuses_fp16_on_a_cpu_that_cannot(name: str) -> None:
    engine = ENGINES[name]
    assert engine.name == name and engine.description
    assert engine.problem(CPU, "fp16") == "" or "fp16" in engine.problem(CPU, "fp16")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", TOLERANCES)
def test_torch_on_an_accelerator_keeps_the_tolerance(precision: str, images: torch.Tensor) -> None:
    what = Work(make_backbone(), ("features",), precision, BATCH, torch.device("cuda"))
    with ENGINES["torch"].prepare(what) as forward, inference(what.device):
        given = forward(images[:BATCH].to("cuda"))["features"].cpu()
    assert relative_error(given, reference(make_backbone(), images[:BATCH])["features"]) <= TOLERANCES[precision]
