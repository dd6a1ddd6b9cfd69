"""Images per second of `extract_features` against the loop most code has, in one process, the sides taking turns.

The plain loop: torchvision transforms, a DataLoader with two worker processes, float32 NCHW, one full pass over the
images for each network. Both sides decode with the same store and include everything from the encoded images to the
feature matrix in memory; ours also hashes images and weights for its key.

    python benchmarks/extract.py                     # ../shared/data where it is there, else random JPEGs
    python benchmarks/extract.py --images 1000 --rounds 2   # two minutes on two cores, else a quarter of an hour

Prints a Markdown table; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone
from richrep.data.datasets import load_split
from richrep.data.sources.parquet_images import ParquetStore
from richrep.data.split import Split
from richrep.data.stores import FileStore
from richrep.features.extract import extract_features

SHARED_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
CIFAR = [f"akamaster_cifar10_resnet{name}.th" for name in ("20-12fca82f", "32-d509ac18", "44-014dd654", "56-4bfd9763")]
IMAGENET = [
    "mobilenetv2_100_imagenet_slimqat.safetensors",
    "mobilenetv2_100_imagenet_onnx7_trunk.safetensors",
    "squeezenet1_1_imagenet.safetensors",
    "squeezenet1_0_imagenet_sparse67.safetensors",
]
RANDOM = ["random/mobilenetv2_100", "random/mobilenetv3_large_100", "random/resnet18", "random/efficientnet_lite0"]


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    name: str
    split: Split
    backbones: Sequence[Backbone]


class TransformedImages(Dataset[torch.Tensor]):
    """What a plain loop's DataLoader reads."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.transform(pillow_image(self.split, row))


def pillow_image(split: Split, row: int) -> Image.Image:
    """The image as torchvision's own data sets read it: by Pillow alone, not by richrep's decoder."""
    store, position = split.images, int(split.positions[row])
    if isinstance(store, ParquetStore):
        content = store._content(position)  # bytes, or a path beside the table
        return Image.open(content if isinstance(content, Path) else io.BytesIO(content)).convert("RGB")
    if isinstance(store, FileStore):
        return Image.open(store.name(position)).convert("RGB")
    return split.load_image(row)  # pixels in memory


def torchvision_transform(backbone: Backbone) -> transforms.Compose:
    """The backbone's preprocessing as one writes it with torchvision."""
    preprocessing, geometry = backbone.preprocessing, backbone.preprocessing.geometry
    mode = transforms.InterpolationMode(geometry.interpolation)
    if geometry.resize_px is None:
        resize = [transforms.Resize(geometry.size_px, interpolation=mode)]
    else:
        resize = [transforms.Resize(geometry.resize_px, interpolation=mode), transforms.CenterCrop(geometry.size_px)]
    return transforms.Compose(
        [*resize, transforms.ToTensor(), transforms.Normalize(preprocessing.mean, preprocessing.std)]
    )


def plain_loop(
    backbones: Sequence[Backbone], split: Split, *, batch_size: int = 64, device: str = "cpu", num_workers: int = 2
) -> list[torch.Tensor]:
    """One pass for each network, worker processes that decode, float32 NCHW."""
    features = []
    for backbone in backbones:
        images = TransformedImages(split, torchvision_transform(backbone))
        loader = DataLoader(images, batch_size=batch_size, num_workers=num_workers, pin_memory=device != "cpu")
        backbone.to(device)
        with torch.no_grad():
            features.append(torch.cat([backbone(batch.to(device, non_blocking=True)).cpu() for batch in loader]))
    return features


def time_s(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(case: Case, rounds: int) -> str:
    """The case as a line of the table: medians of `rounds` turns."""
    warm = case.split.first(min(32, len(case.split)))
    plain, ours = plain_loop(case.backbones, warm), extract_features(list(case.backbones), warm)
    error = max(float((p - o.features).abs().max() / p.abs().max()) for p, o in zip(plain, ours, strict=True))
    plain_s, ours_s = [], []
    for turn in range(rounds):
        plain_s.append(time_s(lambda: plain_loop(case.backbones, case.split)))
        ours_s.append(time_s(lambda: extract_features(list(case.backbones), case.split)))
        print(f"{case.name}, round {turn + 1}: plain {plain_s[-1]:.1f} s, richrep {ours_s[-1]:.1f} s", file=sys.stderr)
    slow, fast = (len(case.split) / statistics.median(seconds) for seconds in (plain_s, ours_s))
    return (
        f"| {case.name} | {len(case.backbones)} | {len(case.split):,} | {slow:.1f} | {fast:.1f} | {fast / slow:.2f} "
        f"| {min(len(case.split) / s for s in ours_s) / max(len(case.split) / s for s in plain_s):.2f} | {error:.0e} |"
    )


def shared_cases(images: int) -> list[Case]:
    """The real networks and images."""
    cases = []
    for dataset, files, size in (("cifar10", CIFAR, images), ("caltech101", IMAGENET, images // 10)):
        whole = load_split(f"parquet:{SHARED_DATA / dataset}", "train")
        split = whole.first(min(size, len(whole)))
        backbones = [load_backbone(str(SHARED_DATA / "weights" / file)) for file in files]
        cases += [Case(f"{dataset}, {backbones[0].name}", split, backbones[:1])]
        cases += [Case(f"{dataset}, {', '.join(b.name for b in backbones)}", split, backbones)]
    return cases


def random_cases(images: int, folder: Path) -> list[Case]:
    """Random JPEGs of 224 px and networks of random weights."""
    generator = np.random.default_rng(0)
    for i in range(images):
        pixels = generator.integers(0, 256, (14, 14, 3), dtype=np.uint8)
        file = folder / "train" / f"class{i % 2}" / f"{i:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC).save(file, quality=90)
    for label in range(2):
        test = folder / "test" / f"class{label}"
        test.mkdir(parents=True)
        Image.new("RGB", (224, 224)).save(test / "0.jpg")
    split = load_split(f"folder:{folder}", "train")
    backbones = [load_backbone(address) for address in RANDOM]
    return [Case(f"random JPEGs 224 px, {RANDOM[0]}", split, backbones[:1]), Case("the four", split, backbones)]


def machine() -> str:
    """Processor, cores, versions."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{model}, {os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads{load}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Images per second of richrep's extraction and of a plain loop.")
    parser.add_argument("--images", type=int, default=5000, help="CIFAR images; a tenth of them of 224 px")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side; the median counts")
    parser.add_argument("--only", default="", help="only the cases whose name contains this")
    options = parser.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        if SHARED_DATA.is_dir():
            cases = shared_cases(options.images)
        else:
            print("../shared/data is not here: random JPEGs and random weights instead.", file=sys.stderr)
            cases = random_cases(options.images // 10, Path(folder))
        lines = [measure(case, options.rounds) for case in cases if options.only in case.name]
    print(f"Machine before: {before}\n")
    print(
        "| images and networks | networks | images | plain loop, images/s | richrep, images/s | ratio of medians "
        "| worst ratio | largest relative difference |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
