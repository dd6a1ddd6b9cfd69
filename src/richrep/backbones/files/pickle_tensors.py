"""Storages, tensors and parameters of a pickle: each must lie within what the file holds."""

from __future__ import annotations

import math
from collections.abc import Mapping

from richrep.backbones.files.pickle_limits import Limits
from richrep.backbones.files.pickle_names import ITEM_BYTES, dtype_called
from richrep.backbones.files.pickle_values import BrokenPickle, Items, Made, Name, RefusedPickle, Storage, Tuple

_MAX_DIMENSIONS = 64  # torch's own limit for most operations


def make_storage(identity: object, known: dict[str, Storage], stored: Mapping[str, int] | None) -> Storage:
    """A storage: ("storage", type, key, device, number of items[, view]).

    Args:
        known: key -> every storage so far; gains this one.
        stored: key -> bytes of every storage in the file; None when they follow the pickles.
    """
    if not isinstance(identity, Tuple):
        raise BrokenPickle("it names a storage by something that is no tuple")
    word, kind, key, _device, count, *view = identity.items
    if word != "storage" or not isinstance(kind, Name) or kind.full not in ITEM_BYTES or not isinstance(key, str):
        raise RefusedPickle("names a storage of an unknown kind")
    item_bytes = ITEM_BYTES[kind.full]
    storage = Storage(_count(count) * item_bytes, item_bytes)
    before = known.setdefault(key, storage)
    if before != storage and before.size + storage.size > 0:
        raise RefusedPickle(f"describes storage {key!r} in two ways")
    if stored is not None and storage.size > (there := stored.get(key, 0)):
        raise RefusedPickle(f"asks for storage {key!r} of {storage.size:,} bytes, and has at most {there:,} of them")
    if view and isinstance(view[0], Tuple):
        _view_key, start, length = view[0].items
        if _count(start) + _count(length) > _count(count):
            raise RefusedPickle(f"holds a view that reaches beyond storage {key!r}")
        return Storage(_count(length) * item_bytes, item_bytes)
    return storage


def make_tensor(
    maker: str, limits: Limits, storage: object, offset: object, shape: object, strides: object, *flags: object
) -> Made:
    """A dense tensor within its storage."""
    if not (isinstance(storage, Storage) and isinstance(shape, Tuple) and isinstance(strides, Tuple)):
        raise RefusedPickle("holds a tensor without a storage")
    item_bytes = storage.item_bytes
    if maker.endswith("_v3"):
        item_bytes, flags = _item_bytes(flags[2]), flags[:2] + flags[3:]
    _check_empty(*flags)
    sizes, steps = [_count(size) for size in shape.items], [_count(step) for step in strides.items]
    last = sum((size - 1) * step for size, step in zip(sizes, steps, strict=True)) if all(sizes) else -1
    if (_count(offset) + last + 1) * item_bytes > storage.size or len(sizes) > _MAX_DIMENSIONS:
        raise RefusedPickle(
            f"holds a tensor of shape {tuple(sizes)} that reaches beyond its storage of {storage.size:,} bytes"
        )
    limits.count_view(math.prod(sizes) * item_bytes)
    return Made(maker)


def make_parameter(data: object, *flags: object) -> Made:
    """A parameter, which is its tensor."""
    if not isinstance(data, Made) or not data.maker.startswith("torch._utils._rebuild_tensor"):
        raise RefusedPickle("makes a parameter of something that is no tensor")
    _check_empty(*flags)
    return data


def _check_empty(*flags: object) -> None:
    """Beside `requires_grad` a tensor has hooks and other facts, which are empty in the files of torch.save."""
    if not all(flag is None or isinstance(flag, bool) or (isinstance(flag, Items) and not flag.size) for flag in flags):
        raise RefusedPickle("holds a tensor with hooks or attributes, expected plain ones")


def _item_bytes(dtype: object) -> int:
    found = dtype_called(dtype.full) if isinstance(dtype, Name) else None
    if found is None:
        raise RefusedPickle("holds a tensor of an unknown type")
    return found.itemsize


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise RefusedPickle(f"holds a tensor with the size or position {value!r}, expected a number >= 0")
    return value
