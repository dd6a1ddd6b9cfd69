"""Networks and heads on another device give the same numbers there. See far_device.py for the device."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from richrep.backbones.small_cnn import make_small_cnn
from richrep.evaluation.probe import probe
from richrep.evaluation.protocols import PROTOCOLS
from richrep.evaluation.protocols.logistic import LogisticProtocol

# They draw, cut val or search another way, and fit the heads of others.
ALIKE = ["vtab1k", "kshot-whole-val:N", "sparse-linear", "swav-linear", "trex-lbfgs"]
NAMES = [
    "search",
    "more features than images",
    *(name.replace(":N", ":2") for name in PROTOCOLS if name not in ALIKE and not name.startswith("legacy-")),
    "logistic-legacy-test-selection",
    "sparse-linear-legacy-test-selection",
]
WAYS = ["copied", "by the block"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By protocol and way: hyper-parameters and test scores of every record."""
    pytest.importorskip("torch.utils.backend_registration")
    command = [sys.executable, str(Path(__file__).with_name("far_device.py")), str(tmp_path_factory.mktemp("cache"))]
    done = subprocess.run(
        [*command, *NAMES], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if "_setup_privateuseone_for_python_backend" in done.stderr:
        pytest.skip("this torch has no device that Python can make up")
    assert done.returncode == 0, done.stderr
    return {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_measures_the_same_on_a_device(name: str, way: str, measured: dict[str, Any]) -> None:
    near, there = measured[name]["near"], measured[name][way]
    assert len(near) == len(there) > 0
    for (chosen, scores), (chosen_there, scores_there) in zip(near, there, strict=True):
        assert chosen == pytest.approx(chosen_there) if all_numbers(chosen) else chosen == chosen_there
        assert scores["accuracy"] == scores_there["accuracy"]
        assert scores["nll"] == pytest.approx(scores_there["nll"], rel=1e-3)


def all_numbers(chosen: dict[str, Any]) -> bool:
    return all(isinstance(value, float) for value in chosen.values())


def test_features_are_the_same_on_a_device_and_networks_come_back(measured: dict[str, Any]) -> None:
    found = measured["extraction"]
    assert found["there"] < 1e-5 and found["left there"] == 0
    assert 0 < found["resized there"] < 0.05  # by torch in float32: other pixels


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("limit", [None, "300MB"])
def test_a_probe_on_cuda_measures_the_same(limit: str | None) -> None:
    backbones = [make_small_cnn(10, widths=(4, 8)), make_small_cnn(10, widths=(4, 6), seed=1)]
    protocol = LogisticProtocol(cs=(0.1, 10.0), normalizations=("block-rms", "l2"))
    options: dict[str, Any] = {"protocol": protocol, "memory_limit": limit, "train_size": 200, "test_size": 100}
    near, there = (probe(backbones, "digits", cache=None, device=device, **options) for device in ("cpu", "cuda"))
    for one, other in zip(near, there, strict=True):
        assert other.environment["device"].startswith("cuda")
        assert other.hyperparameters == one.hyperparameters
        assert other.score("test", "nll") == pytest.approx(one.score("test", "nll"), rel=1e-3)


def test_the_device_tells_tensors_of_two_devices_apart(measured: dict[str, Any]) -> None:
    assert measured["two devices"]["refused"] == 3
