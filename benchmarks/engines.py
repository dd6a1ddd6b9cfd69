"""Images per second of every engine and precision against the plain torchvision loop, in one process, taking turns.

The plain loop is the one of benchmarks/extract.py: torchvision transforms, a DataLoader with two worker processes,
float32 NCHW; its rate leaves out the time of its first 32 images (or a quarter), so the start of its workers. Ours is
`extract_features` from the same encoded images to the feature matrix in memory. "whole" counts everything, so also what
an engine takes to make a network ready, once a run; "running" counts from the first batch on, which is what a large
data set sees. "bare" is the engine alone: full batches of one tensor, as many at once as
`extract_features` runs, nothing decoded.

    python benchmarks/engines.py              # ../shared/data where it is there, else random JPEGs and weights
    python benchmarks/engines.py --quick      # a fraction of the images, one round
    python benchmarks/engines.py --only resnet-50 --compile
    python benchmarks/engines.py --fast       # also with --fast-resize, and with --fast-decode on top
    python benchmarks/engines.py --device cuda --compile    # ResNet-50, ViT-B/16, RegNetY-32GF, JPEG and pixels

Prints a Markdown table; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from extract import SHARED_DATA, Case, machine, plain_loop, random_cases, time_s
from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone
from richrep.data.datasets import load_split
from richrep.data.split import Split
from richrep.data.stores import ArrayStore
from richrep.errors import EngineError
from richrep.features.engines import ENGINES
from richrep.features.engines.choose import relative_error
from richrep.features.engines.engine import Work
from richrep.features.extract import extract_features
from richrep.features.forward import forward_threads, inference
from richrep.features.loop_options import default_batch_size
from richrep.features.progress import ExtractionProgress

Variant = tuple[str, ...]  # engine, precision, and keywords of extract_features that are switched on

VARIANTS: list[Variant] = [
    ("torch", "fp32"),
    ("torch", "bf16"),
    ("onnxruntime", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
]
COMPILED: list[Variant] = [("torch-compile", "fp32"), ("torch-compile", "bf16")]
FAST: list[Variant] = [("fast_resize",), ("fast_resize", "fast_decode")]
ON_ACCELERATOR: list[Variant] = [("torch", "fp32"), ("torch", "bf16"), ("torch", "fp16")]
ACCELERATOR_CASES = [  # name, address; every one from JPEG and from pixels in memory
    ("ResNet-50, 224 px", "random/resnet50"),
    ("ViT-B/16, 224 px", "random/vit_base_patch16_224"),
    ("RegNetY-32GF, 224 px", "random/regnety_320"),
]
DECODED = "32 px, pixels in memory"
SHARED_CASES = [  # name, address, data set, images
    ("ResNet-50, 224 px", "random/resnet50", "caltech101", 256),
    ("ViT-S/16, 224 px", "random/vit_small_patch16_224", "caltech101", 256),
    ("MobileNetV2, 224 px", "mobilenetv2_100_imagenet_slimqat.safetensors", "caltech101", 512),
    ("SqueezeNet 1.1, 224 px", "squeezenet1_1_imagenet.safetensors", "caltech101", 512),
    ("CIFAR ResNet-20, 32 px", "akamaster_cifar10_resnet20-12fca82f.th", "cifar10", 16384),
    ("CIFAR ResNet-56, 32 px", "akamaster_cifar10_resnet56-4bfd9763.th", "cifar10", 8192),
    (f"CIFAR ResNet-20, {DECODED}", "akamaster_cifar10_resnet20-12fca82f.th", "cifar10", 16384),
]


def accelerator_cases(split: Split) -> list[Case]:
    """Networks of random weights on encoded images, and on the same as arrays of the networks' size."""
    cases = []
    for name, address in ACCELERATOR_CASES:
        backbone = load_backbone(address)
        arrays = [backbone.preprocessing.geometry.apply(split.load_decoded(row)).copy() for row in range(len(split))]
        in_memory = replace(
            split, images=ArrayStore(np.stack(arrays), source="memory"), positions=np.arange(len(split))
        )
        cases += [Case(name, split, [backbone]), Case(f"{name}, pixels in memory", in_memory, [backbone])]
    return cases


def encoded_images(count: int, folder: Path) -> Split:
    """So many real JPEGs, the same ones again where there are fewer; random ones where there are none."""
    if SHARED_DATA.is_dir():
        split = load_split(f"parquet:{SHARED_DATA / 'caltech101'}", "train")
    else:
        split = random_cases(min(count, 512), folder)[0].split
    return split.take(np.arange(count) % len(split))


def shared_cases(divisor: int) -> list[Case]:
    """The real images; real weights where there are some."""
    cases = []
    for name, address, dataset, images in SHARED_CASES:
        path = SHARED_DATA / "weights" / address
        split = load_split(f"parquet:{SHARED_DATA / dataset}", "train")
        backbone = load_backbone(str(path) if path.is_file() else address)
        split = split.first(min(images // divisor, len(split)))
        cases.append(Case(name, decoded(split) if name.endswith(DECODED) else split, [backbone]))
    return cases


def decoded(split: Split) -> Split:
    """The same images as arrays: what is left is everything but decoding."""
    pixels = [np.asarray(split.load_image(row)) for row in range(len(split))]
    return replace(split, images=ArrayStore(np.stack(pixels), source="memory"), positions=np.arange(len(split)))


def bare_rate(backbone: Backbone, engine: str, precision: str, device: torch.device, *, seconds: float) -> float:
    """Images/s of the engine alone."""
    size_px = backbone.preprocessing.geometry.size_px
    batch_size = default_batch_size(device, max(size_px))
    images = torch.zeros(batch_size, 3, *size_px, device=device).contiguous(memory_format=torch.channels_last)
    with forward_threads([backbone], device) as workers:
        work = Work(
            backbone,
            ("features",),
            precision,
            batch_size,
            device,
            workers.count,
            threads_per_batch=torch.get_num_threads(),
        )
        with ENGINES[engine].prepare(work) as forward:

            def run_batches(count: int) -> None:
                with inference(device):
                    for _ in range(count):
                        forward(images)
                    if device.type == "cuda":
                        torch.cuda.synchronize(device)

            run_batches(1)
            each = max(2, round(seconds / time_s(lambda: run_batches(1))))
            elapsed_s = time_s(lambda: list(workers.pool.map(run_batches, [each] * workers.count)))
            return workers.count * each * batch_size / elapsed_s


def plain_rate(case: Case, device: torch.device) -> float:
    """Images/s of the plain loop without what it takes to start, as its first images measure it."""
    first = case.split.first(min(32, len(case.split) // 4))
    options: dict[str, Any] = {"device": str(device), "num_workers": 2 if device.type == "cpu" else os.cpu_count()}
    start_s = time_s(lambda: plain_loop(case.backbones, first, **options))
    whole_s = time_s(lambda: plain_loop(case.backbones, case.split, **options))
    return (len(case.split) - len(first)) / (whole_s - start_s)


def keywords(variant: Variant) -> dict[str, Any]:
    """What `extract_features` is told."""
    engine, precision, *switched_on = variant
    return {"engine": engine, "precision": precision} | dict.fromkeys(switched_on, True)


def our_rates(case: Case, variant: Variant, device: torch.device) -> tuple[float, float, torch.Tensor]:
    """Images/s of the whole call and from the first batch on, and the features."""
    steps: list[ExtractionProgress] = []
    start = time.perf_counter()
    (given,) = extract_features(
        list(case.backbones),
        case.split,
        device=str(device),
        progress=steps.append,
        **keywords(variant),
    )
    whole = len(case.split) / (time.perf_counter() - start)
    done = [step for step in steps if step.images_done]
    running = (done[-1].images_done - done[0].images_done) / (done[-1].elapsed_s - done[0].elapsed_s)
    return whole, running, given.features


def measure(case: Case, variants: list[Variant], device: torch.device, *, rounds: int, seconds: float) -> list[str]:
    """The case as lines of the table: medians of `rounds` turns."""
    (reference,) = plain_loop(case.backbones, case.split.first(32), device=str(device))
    refused: dict[Variant, str] = {}
    for variant in variants:  # warm up, and find what cannot run
        try:
            first = case.split.first(32)
            extract_features(case.backbones[0], first, device=str(device), **keywords(variant))
        except EngineError as error:
            refused[variant] = str(error)
    plain: list[float] = []
    ours: dict[Variant, list[tuple[float, float, float]]] = {v: [] for v in variants if v not in refused}
    errors: dict[Variant, float] = {}
    for turn in range(rounds):
        plain.append(plain_rate(case, device))
        for variant, rates in ours.items():
            whole, running, features = our_rates(case, variant, device)
            rates.append((whole, running, bare_rate(case.backbones[0], *variant[:2], device, seconds=seconds)))
            errors[variant] = relative_error(features[: len(reference)], reference)
            print(f"{case.name}, round {turn + 1}, {variant}: {rates[-1]}, plain {plain[-1]:.1f}", file=sys.stderr)
    slow = statistics.median(plain)
    lines = [f"| {case.name} | plain loop | {slow:.1f} | | 1.00 | | | |"]
    for variant in variants:
        label = f"| {case.name} | {' '.join(variant)} "
        if variant in refused:
            lines.append(f"{label}| refused: {refused[variant]} | | | | | |")
            continue
        whole, running, bare = (statistics.median(column) for column in zip(*ours[variant], strict=True))
        lines.append(
            f"{label}| {whole:.1f} | {running:.1f} | {running / slow:.2f} | {bare:.1f} | {running / bare:.0%} "
            f"| {errors[variant]:.0e} |"
        )
    return lines


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Images per second of every engine, and of a plain loop.")
    parser.add_argument("--quick", action="store_true", help="an eighth of the images, one round")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side; the median counts")
    parser.add_argument("--only", default="", help="only the cases whose name contains this, in any case")
    parser.add_argument("--compile", action="store_true", help="also torch-compile, which takes minutes")
    parser.add_argument("--fast", action="store_true", help="also by torch's resize, and scaled decoding on top")
    parser.add_argument("--precision", default="", help="only this one: bf16 takes an age where it is emulated")
    parser.add_argument("--device", default="cpu", help="cuda: the networks of an accelerator; cpu by default")
    parser.add_argument("--images", type=int, default=4096, help="of the networks of an accelerator")
    options = parser.parse_args()
    device = torch.device(options.device)
    before = machine()
    variants = (VARIANTS if device.type == "cpu" else ON_ACCELERATOR) + (COMPILED if options.compile else [])
    variants = [variant for variant in variants if options.precision in ("", variant[1])]
    if options.fast:
        variants = [(*variant, *switches) for variant in variants for switches in ((), *FAST)]
    divisor, rounds, seconds = (8, 1, 1.0) if options.quick else (1, options.rounds, 5.0)
    with tempfile.TemporaryDirectory() as folder:
        if device.type != "cpu":
            cases = accelerator_cases(encoded_images(options.images // divisor, Path(folder)))
        elif SHARED_DATA.is_dir():
            cases = shared_cases(divisor)
        else:
            print("../shared/data is not here: random JPEGs and random weights instead.", file=sys.stderr)
            cases = random_cases(512 // divisor, Path(folder))[:1]
        wanted = [case for case in cases if options.only.lower() in case.name.lower()]
        if not wanted:
            parser.error(f"no case's name holds {options.only!r}; they are {', '.join(case.name for case in cases)}")
        lines = [line for case in wanted for line in measure(case, variants, device, rounds=rounds, seconds=seconds)]
    on = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    print(f"Machine before: {before}{on}\n")
    print(
        "| images and network | side | whole, images/s | running, images/s | running / plain | bare engine, images/s "
        "| share of bare | relative difference |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
