"""`richrep inspect` on a pruned checkpoint: what is pruned, by whose masks, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from richrep.backbones.families.mobilenet_v1 import WIDTHS, MobileNetV1


@pytest.fixture
def pruned(tmp_path: Path) -> str:
    """MobileNetV1 of width 8 everywhere, in the study's container: the first pointwise convolution half pruned."""
    network = MobileNetV1([8] * len(WIDTHS))
    network.fc = nn.Linear(8, 5)
    tensors = dict(network.state_dict())
    tensors["model.1.3._layer.weight"] = tensors.pop("model.1.3.weight")
    tensors["model.1.3._weight_mask"] = torch.tensor([1.0, 0.0]).repeat(32).reshape(8, 8, 1, 1)
    config = {"arch": "mobilenet", "dataset": "imagenet"}
    torch.save({"model_config": config, "model_state_dict": tensors, "epoch": 1}, tmp_path / "p.ckpt")
    return "p.ckpt"


# 13 x (72 + 64) + 216 = 1,984 weights of convolutions, 32 of them pruned; with the head's 40, 2,024;
# the whole model has 27 x 16 values of batch norms and 5 biases more: 2,461, with 27 x 8 zero biases of batch norms
SHARES = {"backbone": 32 / 1984, "with_head": 32 / 2024, "whole_model": (32 + 216) / 2461}


def test_inspect_says_what_is_pruned(cli, pruned) -> None:
    out = " ".join(cli("inspect", pruned).out.split())
    assert "1.6% of the conv and linear weights are zero" in out
    assert "pruned: backbone 1.6%, with head 1.6%, whole model with biases and norms 10.1% of 2,461" in out
    assert "1, from the file" in out
    assert "model.1.3" not in out.partition("load")[0]


def test_inspect_layers_lists_every_layer(cli, pruned) -> None:
    lines = [line.split() for line in cli("inspect", pruned, "--layers").out.splitlines()]
    assert ["trunk.model.1.3", "8x8x1x1", "64", "32", "50.0%"] in lines
    assert ["head", "5x8", "40", "0", "0.0%"] in lines
    assert sum(line[:1] != [] and line[0].startswith("trunk.") for line in lines) == 27


def test_inspect_as_json_holds_the_sparsity_of_every_layer(cli, pruned) -> None:
    facts = json.loads(cli("inspect", pruned, "--json", "-").out)
    assert facts["pruned"] == pytest.approx(SHARES)
    assert (facts["mask_source"], facts["masks"]) == ("file", 1)
    assert facts["sparsity"] == pytest.approx(32 / 2024)
    layers = {layer["name"]: layer for layer in facts["layers"]}
    assert layers["trunk.model.1.3"] == {
        "name": "trunk.model.1.3",
        "shape": [8, 8, 1, 1],
        "weights": 64,
        "zeros": 32,
        "sparsity": 0.5,
    }


def test_inspect_of_a_dense_network_says_there_are_no_masks(cli, checkpoints) -> None:
    lines = dict(line.split(maxsplit=1) for line in cli("inspect", checkpoints[0]).out.splitlines() if line[0] != " ")
    assert lines["masks"].strip() == "none"
    assert json.loads(cli("inspect", checkpoints[0], "--json", "-").out)["mask_source"] is None
