"""A Hugging Face folder -> its tensors, the texts beside them and in config.json, and the files that were read.

The weights are the first of: `model.safetensors`; the shards that `model.safetensors.index.json` lists;
`pytorch_model.bin`; the only `*.safetensors`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from richrep.backbones.files.checkpoint_file import read_file
from richrep.backbones.files.refusals import broken_file, listed
from richrep.errors import CheckpointError

_WHOLE, _INDEX, _TORCH = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
_CONFIG = "config.json"
_MAX_JSON_BYTES = 20_000_000  # an index of 100,000 tensors has 8 MB


def read_folder(path: Path) -> tuple[object, dict[str, str], tuple[Path, ...]]:
    """Content, metadata and files of the folder at `path`; texts beside the tensors win over config.json."""
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from None
    first = next((name for name in (_WHOLE, _INDEX, _TORCH) if name in names), None)
    single = [name for name in names if name.endswith(".safetensors")]
    if first is None and len(single) != 1:
        raise CheckpointError(
            f"{path} is a directory, expected a checkpoint file, or a directory with {_WHOLE}, {_INDEX}, {_TORCH} or "
            f"one *.safetensors. It holds {listed(names) or 'nothing'}. Give the path of a file in it."
        )
    weights = path / (first or single[0])
    value: object
    files: tuple[Path, ...]
    if first == _INDEX:
        value, metadata, files = _read_shards(path)
    else:
        (value, metadata), files = read_file(weights), (weights,)
    if _CONFIG in names:
        config = _read_json(path / _CONFIG)
        metadata = {key: text if isinstance(text, str) else json.dumps(text) for key, text in config.items()} | metadata
        files += (path / _CONFIG,)
    return value, metadata, files


def _read_shards(path: Path) -> tuple[dict[str, object], dict[str, str], tuple[Path, ...]]:
    """The tensors of all shards, which must be those that the index lists."""
    index = path / _INDEX
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(shard, str) for shard in places.values()):
        raise CheckpointError(f"{index} has no weight_map of names to files. Download the folder again.")
    shards = sorted(set(places.values()))
    outside = [shard for shard in shards if shard in ("", ".", "..") or "/" in shard or "\\" in shard]
    if outside:
        raise CheckpointError(f"{index} names files outside its folder: {listed(outside)}. Nothing was loaded.")
    tensors: dict[str, object] = {}
    metadata: dict[str, str] = {}
    for shard in shards:
        content, texts = read_file(path / shard)
        wanted = {name for name, place in places.items() if place == shard}
        if not isinstance(content, dict) or content.keys() != wanted:
            differing = sorted(wanted.symmetric_difference(content if isinstance(content, dict) else ()))
            raise CheckpointError(
                f"{path / shard} does not hold the tensors that {_INDEX} lists; these differ: {listed(differing)}. "
                "Download the folder again."
            )
        tensors |= content
        metadata |= texts
    return tensors, metadata, (index, *(path / shard for shard in shards))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > _MAX_JSON_BYTES:
        raise CheckpointError(f"{path} is no file of at most {_MAX_JSON_BYTES:,} bytes. Download the folder again.")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise broken_file(path, "JSON file", error) from None
    if not isinstance(content, dict):
        raise broken_file(path, "JSON file", "it holds no object")
    return content
