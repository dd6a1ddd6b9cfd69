"""Twelve real checkpoints by path alone: architecture, facts, and accuracy of their own heads on real images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone

# file -> family, architecture, features, classes of the head
WEIGHTS = {
    "akamaster_cifar10_resnet20-12fca82f.th": ("cifar-resnet", "resnet20", 64, 10),
    "akamaster_cifar10_resnet32-d509ac18.th": ("cifar-resnet", "resnet32", 64, 10),
    "akamaster_cifar10_resnet44-014dd654.th": ("cifar-resnet", "resnet44", 64, 10),
    "akamaster_cifar10_resnet56-4bfd9763.th": ("cifar-resnet", "resnet56", 64, 10),
    "mobilenetv2_100_imagenet_onnx7_trunk.safetensors": ("torchvision", "mobilenet_v2", 1280, None),
    "mobilenetv2_100_imagenet_slimqat.safetensors": ("torchvision", "mobilenet_v2", 1280, 1000),
    "resnet20_A_davdevv_cifar10.safetensors": ("cifar-resnet", "resnet20", 64, 10),
    "resnet20_A_kejndan_cifar10.safetensors": ("cifar-resnet", "resnet20", 64, 10),
    "resnet20_A_makhmood_cifar10.safetensors": ("cifar-resnet", "resnet20", 64, 10),
    "resnet20_A_valerkabvv_cifar10.safetensors": ("cifar-resnet", "resnet20", 64, 10),
    "squeezenet1_0_imagenet_sparse67.safetensors": ("torchvision", "squeezenet1_0", 512, 1000),
    "squeezenet1_1_imagenet.safetensors": ("torchvision", "squeezenet1_1", 512, 1000),
}
# accuracy on cifar10_png/test, 4,000 images, from the README of the shared data
CIFAR_ACCURACY = {
    "akamaster_cifar10_resnet20-12fca82f.th": 0.9147,
    "akamaster_cifar10_resnet32-d509ac18.th": 0.9255,
    "akamaster_cifar10_resnet44-014dd654.th": 0.9317,
    "akamaster_cifar10_resnet56-4bfd9763.th": 0.9373,
    "resnet20_A_davdevv_cifar10.safetensors": 0.9040,
    "resnet20_A_kejndan_cifar10.safetensors": 0.9070,
    "resnet20_A_makhmood_cifar10.safetensors": 0.9018,
    "resnet20_A_valerkabvv_cifar10.safetensors": 0.9217,
}
IMAGENET_ACCURACY = {
    "mobilenetv2_100_imagenet_slimqat.safetensors": 0.872,
    "squeezenet1_0_imagenet_sparse67.safetensors": 0.600,
    "squeezenet1_1_imagenet.safetensors": 0.600,
}


def load_images(path: Path, backbone: Backbone, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels (N, H, W, 3) uint8 and labels (N,) of the first `size` rows."""
    table = pyarrow.parquet.read_table(path).slice(0, size)
    encoded = (row["bytes"] for row in table["image"].to_pylist())
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in encoded]
    pixels = np.stack([backbone.preprocessing.geometry.apply(image) for image in images])
    return torch.from_numpy(pixels), torch.tensor(table["label"].to_pylist())


def accuracy(backbone: Backbone, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.inference_mode():
        batches = [backbone.preprocessing.normalize(batch) for batch in pixels.split(100)]
        preds = torch.cat([backbone.features_and_logits(batch)[1].argmax(1) for batch in batches])
    return float((preds == labels).float().mean())


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_shared_checkpoint_loads_by_path_alone(shared_data: Path, name: str) -> None:
    backbone = load_backbone(str(shared_data / "weights" / name))
    facts = (backbone.family, backbone.architecture, backbone.feature_dim, backbone.num_classes)
    assert facts == WEIGHTS[name]
    assert backbone.load_report[0].startswith("matched ") and backbone.load_report[0].endswith("ignored: none")
    assert backbone.sha256 in (shared_data / "README.md").read_text()
    assert (backbone.variant == "SAME padding") == ("slimqat" in name)


def test_the_pruned_squeezenet_is_sparse(shared_data: Path) -> None:
    backbone = load_backbone(str(shared_data / "weights" / "squeezenet1_0_imagenet_sparse67.safetensors"))
    # 66.6 % of all convolution weights; the pruned classifier, which is denser in zeros, is in the head
    assert 0.5 < backbone.sparsity < 0.67


def test_resnet20_reproduces_its_accuracy_on_4000_images(shared_data: Path) -> None:
    name = "akamaster_cifar10_resnet20-12fca82f.th"
    backbone = load_backbone(str(shared_data / "weights" / name))
    found = accuracy(backbone, *load_images(shared_data / "cifar10_png" / "test.parquet", backbone, 4000))
    assert found == pytest.approx(CIFAR_ACCURACY[name], abs=0.001)


@pytest.mark.parametrize("name", list(CIFAR_ACCURACY)[1:])
def test_the_other_cifar_networks_come_near_theirs_on_500_images(shared_data: Path, name: str) -> None:
    backbone = load_backbone(str(shared_data / "weights" / name))
    found = accuracy(backbone, *load_images(shared_data / "cifar10_png" / "test.parquet", backbone, 500))
    # a sample of 500 of 4,000: standard error sqrt(0.92 * 0.08 / 500 * 7 / 8) = 0.011; three of them
    assert found == pytest.approx(CIFAR_ACCURACY[name], abs=0.034)


def test_the_imagenet_networks_recognise_500_images(shared_data: Path) -> None:
    backbones = {name: load_backbone(str(shared_data / "weights" / name)) for name in IMAGENET_ACCURACY}
    path = shared_data / "imagenet1k_samples" / "train.parquet"
    pixels, labels = load_images(path, next(iter(backbones.values())), 500)
    found = {name: accuracy(backbone, pixels, labels) for name, backbone in backbones.items()}
    assert found == pytest.approx(IMAGENET_ACCURACY, abs=0.001)
