"""RigL's TensorFlow variables in a numpy archive, against torchvision's ResNet-50 with the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.models
from torch import nn
from torch.nn import functional

from richrep.backbones.addresses import load_backbone
from richrep.errors import CheckpointError

Arrays = dict[str, np.ndarray]
STAGES = (3, 4, 6, 3)


@pytest.fixture(scope="module")
def resnet50(randomise: Callable[[nn.Module], nn.Module]) -> torchvision.models.ResNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = randomise(torchvision.models.resnet50(num_classes=7))
    assert isinstance(network, torchvision.models.ResNet)
    return network


def variables(network: torchvision.models.ResNet) -> tuple[Arrays, dict[str, torch.Tensor]]:
    """(the file's arrays, with masks that the weights do not heed; torchvision's tensors with the masks applied)."""
    tensors, arrays, norms = dict(network.state_dict()), {}, 0

    def add(scope: str, conv: str, norm: str) -> None:
        nonlocal norms
        weight = tensors[f"{conv}.weight"]
        mask = (torch.arange(weight.numel()) % 3 != 0).reshape(weight.shape)
        tensors[f"{conv}.weight"] = weight * mask
        arrays[f"resnet_model/{scope}/weights"] = weight.permute(2, 3, 1, 0).numpy()
        arrays[f"resnet_model/{scope}/mask"] = mask.float().permute(2, 3, 1, 0).numpy()
        arrays[f"resnet_model/{scope}/threshold"] = np.zeros(())
        start = f"resnet_model/batch_normalization{f'_{norms}' * bool(norms)}"
        for theirs, ours in zip(
            ("gamma", "beta", "moving_mean", "moving_variance"),
            ("weight", "bias", "running_mean", "running_var"),
            strict=True,
        ):
            arrays[f"{start}/{theirs}"] = tensors[f"{norm}.{ours}"].numpy()
        norms += 1

    add("initial_conv", "conv1", "bn1")
    for g, blocks in enumerate(STAGES, start=1):
        scope, own = f"block_group_projection_block_group{g}", f"layer{g}.0"
        add(f"bottleneck_projection_{scope}", f"{own}.downsample.0", f"{own}.downsample.1")
        for block in range(blocks):
            for i in (1, 2, 3):
                own = f"layer{g}.{block}"
                end = scope if block == 0 else f"block_group{g}_{block}_1"
                add(f"bottleneck_{i}_{end}", f"{own}.conv{i}", f"{own}.bn{i}")
    arrays["resnet_model/final_dense/weights"] = tensors["fc.weight"].T.numpy()
    arrays["resnet_model/final_dense/biases"] = tensors["fc.bias"].numpy()
    arrays["global_step"] = np.array(32000)
    return arrays, tensors


@pytest.mark.parametrize("suffix", ["", ":0"])
def test_the_features_are_those_of_the_masked_weights_with_tensorflows_pooling(
    tmp_path: Path, resnet50: torchvision.models.ResNet, suffix: str
) -> None:
    arrays, tensors = variables(resnet50)
    np.savez(tmp_path / "r.npz", **{name + suffix: array for name, array in arrays.items()})
    backbone = load_backbone(str(tmp_path / "r.npz"))
    assert (backbone.family, backbone.feature_dim, backbone.num_classes) == ("rigl", 2048, 7)
    assert backbone.preprocessing.geometry.interpolation == "bicubic"
    assert (backbone.mask_source, len(backbone.masks)) == ("file", 53)
    reference = torchvision.models.resnet50(num_classes=7).eval()
    reference.load_state_dict(tensors)
    reference.maxpool = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, 2))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = reference(images)
        _, logits = backbone.features_and_logits(images)
    assert functional.mse_loss(logits, expected) < 1e-10 * expected.square().mean()


def test_a_variable_that_is_missing_is_named(tmp_path: Path, resnet50: torchvision.models.ResNet) -> None:
    arrays, _ = variables(resnet50)
    del arrays["resnet_model/batch_normalization_52/gamma"]
    np.savez(tmp_path / "r.npz", **arrays)
    with pytest.raises(CheckpointError, match="'resnet_model/batch_normalization_52/gamma' is missing"):
        load_backbone(str(tmp_path / "r.npz"))
    np.savez(tmp_path / "r.npz", **{"resnet_model/initial_conv/weights": np.zeros(3)})
    with pytest.raises(CheckpointError, match=r"a kernel has shape \(3,\), expected \(height, width, in, out\)"):
        load_backbone(str(tmp_path / "r.npz"))
