"""Thousands of damaged checkpoint files: each is refused with our message or read, and none crashes or takes memory."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import subprocess
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from richrep.backbones.checkpoint import load_checkpoint
from richrep.errors import CheckpointError

NUM_FILES = 2000
MAX_EXTRA_BYTES = 300_000_000  # what the process may ask for on top of what it has; the seeds have a few kB
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2), "n": torch.tensor(3)}
MESSY = {
    "state_dict": OrderedDict(TENSORS),
    "optimizer": {"state": {0: {"m": torch.ones(3, dtype=torch.bfloat16)}}, "lr": np.float64(0.1)},
    "args": argparse.Namespace(lr=0.1, steps=np.arange(3), path=Path("x"), mean=(0.5, 0.5)),
}


class RunsCode:
    def __reduce__(self) -> object:
        return os.system, ("touch canary",)


def with_torch(content: object, *, is_zip: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
    return buffer.getvalue()


def with_numpy(save_archive: Callable[..., None]) -> bytes:
    buffer = io.BytesIO()
    save_archive(buffer, **{name: tensor.numpy() for name, tensor in TENSORS.items()})
    return buffer.getvalue()


def make_seeds() -> dict[str, bytes]:
    return {
        "zip": with_torch(TENSORS, is_zip=True),
        "zip, messy": with_torch(MESSY, is_zip=True),
        "zip, evil": with_torch({**TENSORS, "x": RunsCode()}, is_zip=True),
        "legacy": with_torch(TENSORS, is_zip=False),
        "legacy, messy": with_torch(MESSY, is_zip=False),
        "npz": with_numpy(np.savez),
        "npz, compressed": with_numpy(np.savez_compressed),
        "safetensors": save(TENSORS, metadata={"licence": "none"}),
        "pickle": pickle.dumps({"x": RunsCode(), "y": [1, 2]}, protocol=2),
    }


def mutate(seed: bytes, others: list[bytes], generator: np.random.Generator) -> bytes:
    """`seed` with one to four changes: flipped bits, new bytes, cuts, repeats, runs, pieces of another file."""
    content = bytearray(seed)
    for _ in range(generator.integers(1, 5)):
        at = int(generator.integers(len(content) or 1))
        length = int(generator.integers(1, 40))
        kind = generator.integers(8)
        if kind == 0 and content:
            content[at] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            content[at : at + 1] = generator.bytes(1)
        elif kind == 2:
            del content[at:]
        elif kind == 3:
            del content[at : at + length]
        elif kind == 4:
            content[at:at] = content[at : at + length]
        elif kind == 5:
            content[at : at + length] = bytes([int(generator.choice([0, 1, 0x7F, 0x80, 0xFF]))]) * length
        elif kind == 6:
            other = others[int(generator.integers(len(others)))]
            start = int(generator.integers(len(other)))
            content[at : at + length] = other[start : start + length]
        else:
            content[at : at + 1] = bytes([content[at] + int(generator.integers(-2, 3)) & 0xFF]) if content else b""
    return bytes(content)


def limit_memory() -> None:
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MAX_EXTRA_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def fuzz(folder: Path, *, num_files: int, random_seed: int) -> Counter[str]:
    """How many files of each seed were read; raises on anything but a Checkpoint and our own error."""
    seeds = make_seeds()
    generator = np.random.default_rng(random_seed)
    read: Counter[str] = Counter()
    refusals: list[str] = []
    path = folder / "fuzzed.pth"
    for i in range(num_files):
        name = list(seeds)[i % len(seeds)]
        content = mutate(seeds[name], list(seeds.values()), generator)
        path.unlink(missing_ok=True)  # the file before may still be mapped
        path.write_bytes(content)
        (folder / "number").write_text(f"{i} ({name})")
        try:
            checkpoint = load_checkpoint(path, formats={})
        except CheckpointError as error:
            refusals.append(str(error))
            continue
        for tensor in checkpoint.tensors.values():
            tensor.sum()  # reads every value, which crashes when one lies outside the file
        read[name] += 1
    assert all(str(path) in refusal for refusal in refusals)
    assert not [refusal for refusal in refusals if "MemoryError" in refusal or "alloc" in refusal], "asked for too much"
    return read


def main() -> None:
    torch.set_num_threads(1)
    limit_memory()
    print(dict(fuzz(Path.cwd(), num_files=int(sys.argv[1]), random_seed=int(sys.argv[2]))))


def test_damaged_files_are_refused_or_read(tmp_path: Path) -> None:
    # In a process of its own, as a crash would end this one.
    start = time.perf_counter()
    command = [sys.executable, __file__, str(NUM_FILES), "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"file {(tmp_path / 'number').read_text()}: {done.stderr[-3000:]}"
    assert time.perf_counter() - start < 60
    assert {entry.name for entry in tmp_path.iterdir()} == {"fuzzed.pth", "number"}, "a file ran its code"
    assert "'safetensors'" in done.stdout and "'legacy'" in done.stdout, "no damaged file was read at all"


@pytest.mark.parametrize(
    "name", ["zip", "zip, messy", "legacy", "legacy, messy", "npz", "npz, compressed", "safetensors"]
)
def test_the_files_before_they_are_damaged_can_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "seed.pth").write_bytes(make_seeds()[name])
    tensors = load_checkpoint(tmp_path / "seed.pth", formats={}).tensors
    assert tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


if __name__ == "__main__":
    main()
