"""How close engines and precisions are to PyTorch in float32: ‖features − reference‖ / ‖reference‖ of real images.

    python benchmarks/closeness.py                # 128 images of CIFAR-10, 16 of Caltech-101
    python benchmarks/closeness.py --images 8 --only cifar    # as many of either; only networks with this name

Every cell is the mean over the images and the largest of one. An engine is given the very tensor that the reference
is given, and its answers are taken however far they are, which `extract_features` would refuse beyond a tolerance.
"refused" is what this machine, or the engine, cannot compute; the reasons stand below the table. PyTorch's fp16 is
measured all the same, where `extract_features` refuses it because it is slow. The column fast_resize holds features
of `extract_features(fast_resize=True)` against those without it, both PyTorch in float32.

Images and weights are those of ../shared/data; without it, random JPEGs and networks of random weights. bf16 takes
minutes on a processor without arithmetic for it. Prints a Markdown table; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from extract import RANDOM, SHARED_DATA, Case, machine, random_cases
from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone
from richrep.data.datasets import load_split
from richrep.data.split import Split
from richrep.errors import EngineError
from richrep.features.engines import ENGINES
from richrep.features.engines.engine import Work
from richrep.features.extract import extract_features
from richrep.features.forward import inference
from richrep.features.manifest import Precision

CPU = torch.device("cpu")
BATCH_SIZE = 8
COLUMNS: list[tuple[str, str, Precision]] = [  # title, key of ENGINES, precision
    ("OpenVINO fp32", "openvino", "fp32"),
    ("OpenVINO bf16", "openvino", "bf16"),
    ("ONNX Runtime fp32", "onnxruntime", "fp32"),
    ("PyTorch bf16", "torch", "bf16"),
    ("PyTorch fp16", "torch", "fp16"),
]
NETWORKS = [  # name, address, data set, images
    ("CIFAR ResNet-20", "akamaster_cifar10_resnet20-12fca82f.th", "cifar10", 128),
    ("CIFAR ResNet-56", "akamaster_cifar10_resnet56-4bfd9763.th", "cifar10", 128),
    ("MobileNetV2 (from ONNX)", "mobilenetv2_100_imagenet_onnx7_trunk.safetensors", "caltech101", 16),
    ("MobileNetV2 (SlimQAT)", "mobilenetv2_100_imagenet_slimqat.safetensors", "caltech101", 16),
    ("SqueezeNet 1.0, 67 % pruned", "squeezenet1_0_imagenet_sparse67.safetensors", "caltech101", 16),
    ("SqueezeNet 1.1", "squeezenet1_1_imagenet.safetensors", "caltech101", 16),
    ("ResNet-50, random weights", "random/resnet50", "caltech101", 16),
    ("ViT-S/16, random weights", "random/vit_small_patch16_224", "caltech101", 16),
]


def shared_cases(images: int | None) -> list[Case]:
    """The real images; real weights where there are some."""
    cases = []
    for name, address, dataset, usual in NETWORKS:
        file = SHARED_DATA / "weights" / address
        backbone = load_backbone(str(file) if file.is_file() else address)
        split = load_split(f"parquet:{SHARED_DATA / dataset}", "train").first(images or usual)
        cases.append(Case(name, split, [backbone]))
    return cases


def normalized(backbone: Backbone, split: Split) -> torch.Tensor:
    """Images (N, 3, H, W) as the backbone is shown them."""
    preprocessing = backbone.preprocessing
    pixels = [preprocessing.geometry.apply(split.load_decoded(row)) for row in range(len(split))]
    return preprocessing.normalize(torch.from_numpy(np.stack(pixels)))


def features_of(backbone: Backbone, images: torch.Tensor, engine: str, precision: Precision) -> torch.Tensor:
    """Features (N, D), whatever their distance from float32."""
    work = Work(backbone, ("features",), precision, BATCH_SIZE, CPU, threads_per_batch=torch.get_num_threads())
    with ENGINES[engine].prepare(work) as forward, inference(CPU):
        return torch.cat([forward(batch)["features"] for batch in images.split(BATCH_SIZE)])


def distance(features: torch.Tensor, reference: torch.Tensor) -> str:
    """The relative distance of the images, mean and largest."""
    errors = (features - reference).norm(dim=1) / reference.norm(dim=1)
    return f"{float(errors.mean()):.2g}, {float(errors.max()):.2g}"


def line(case: Case, reasons: set[str]) -> str:
    """The case as a line of the table; `reasons` grows by why cells are "refused"."""
    (backbone,) = case.backbones
    images = normalized(backbone, case.split)
    reference = features_of(backbone, images, "torch", "fp32")
    cells = [case.name, str(len(images))]
    for title, engine, precision in COLUMNS:
        start = time.perf_counter()
        problem = ENGINES[engine].problem(CPU, precision) if engine != "torch" else ""  # torch's is about speed alone
        try:
            if problem:
                raise EngineError(problem)
            cells.append(distance(features_of(backbone, images, engine, precision), reference))
        except EngineError as error:
            cells.append("refused")
            reasons.add(f"{title}: {error}")
        print(f"{case.name}, {title}: {cells[-1]}, {time.perf_counter() - start:.1f} s", file=sys.stderr)
    slow, fast = (extract_features(backbone, case.split, device="cpu", fast_resize=fast) for fast in (False, True))
    return f"| {' | '.join([*cells, distance(fast.features, slow.features)])} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help="for each network; 128 of 32 px and 16 of 224 px by default")
    parser.add_argument("--only", default="", help="only the networks whose name contains this, in any case")
    options = parser.parse_args()
    reasons: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        if SHARED_DATA.is_dir():
            cases = shared_cases(options.images)
        else:
            print("../shared/data is not here: random JPEGs and random weights instead.", file=sys.stderr)
            split = random_cases(options.images or 16, Path(folder))[0].split
            cases = [Case(address, split, [load_backbone(address)]) for address in RANDOM]
        wanted = [case for case in cases if options.only.lower() in case.name.lower()]
        lines = [line(case, reasons) for case in wanted]
    print(f"{machine()}\n")
    print(f"| network | images | {' | '.join(title for title, *_ in COLUMNS)} | PyTorch fp32, fast_resize |")
    print(f"|---|{'---:|' * (len(COLUMNS) + 2)}")
    print("\n".join(lines))
    print("\n" + "\n".join(f"- {reason}" for reason in sorted(reasons)) if reasons else "")


if __name__ == "__main__":
    main()
