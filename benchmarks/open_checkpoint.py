"""Seconds and peak memory of opening a checkpoint, ours against `torch.load(weights_only=True)`, the sides alternating.

Every measurement is a fresh process that imports both libraries first; its peak is counted from there (VmHWM of
/proc/self/status, Linux only). Both sides end with every tensor of the network copied out of the file, as a network
holds it; ours also hashes the file. The training checkpoint holds three moments of every weight besides.

    python benchmarks/open_checkpoint.py                 # 100 MB and 400 MB, under a minute
    python benchmarks/open_checkpoint.py --megabytes 10 --rounds 1

Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from richrep.backbones.checkpoint import load_checkpoint

SIDES = ("torch", "richrep")
NUM_TENSORS = 160  # about those of a ResNet-50


def write_files(folder: Path, megabytes: int) -> list[Path]:
    """The same weights in every kind of file, and a training checkpoint of four times the size."""
    generator = torch.Generator().manual_seed(0)
    rows = megabytes * 1_000_000 // 4 // NUM_TENSORS // 1000

    def tensors(prefix: str = "layer") -> dict[str, torch.Tensor]:
        return {f"{prefix}{i}.weight": torch.randn(rows, 1000, generator=generator) for i in range(NUM_TENSORS)}

    weights = tensors()
    torch.save({"state_dict": weights}, folder / "weights.zip.pth")
    torch.save({"state_dict": weights}, folder / "weights.legacy.pth", _use_new_zipfile_serialization=False)
    save_file(weights, folder / "weights.safetensors")
    moments = {name: tensors(name) for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")}
    torch.save({"state_dict": weights, "optimizer": {"state": moments}}, folder / "training.zip.pth")
    return sorted(folder.iterdir())


def open_with(side: str, path: Path) -> dict[str, torch.Tensor]:
    """Copies of the weights in the file."""
    if side == "richrep":
        tensors = load_checkpoint(path).tensors
    elif path.suffix == ".safetensors":
        from safetensors.torch import load_file

        tensors = load_file(path)
    else:
        tensors = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return {name: tensor.clone() for name, tensor in tensors.items()}


def peak_kb() -> int:
    """Largest resident memory of this process so far."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) if match else 0


def measure(side: str, path: Path) -> tuple[float, float]:
    """Seconds, and peak memory in bytes of the file, in a fresh process."""
    command = [sys.executable, __file__, "--side", side, "--file", str(path)]
    seconds, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(seconds), float(peak)


def run_one(side: str, path: Path) -> None:
    """What the fresh process does."""
    before, start = peak_kb(), time.perf_counter()
    tensors = open_with(side, path)
    elapsed = time.perf_counter() - start
    assert len(tensors) == NUM_TENSORS
    print(elapsed, (peak_kb() - before) * 1024 / path.stat().st_size)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Opening checkpoints: richrep against torch.load.")
    parser.add_argument("--megabytes", type=int, default=100, help="size of the weights")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side; the median counts")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_one(options.side, options.file)
        return
    load = os.getloadavg()[0]
    print(f"Machine: {platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, torch {torch.__version__}\n")
    print("| file | MB | torch, s | richrep, s | ratio | torch, peak / file | richrep, peak / file |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for path in write_files(Path(folder), options.megabytes):
            runs: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
            for _ in range(options.rounds):
                for side in SIDES:
                    runs[side].append(measure(side, path))
            seconds = {side: statistics.median(run[0] for run in runs[side]) for side in SIDES}
            peak = {side: max(run[1] for run in runs[side]) for side in SIDES}
            print(
                f"| {path.name} | {path.stat().st_size / 1e6:.0f} | {seconds['torch']:.3f} | {seconds['richrep']:.3f} "
                f"| {seconds['richrep'] / seconds['torch']:.2f} | {peak['torch']:.2f} | {peak['richrep']:.2f} |"
            )


if __name__ == "__main__":
    main()
