"""What the names in a checkpoint's pickle stand for: the allow-list, the inert placeholders, and what is refused.

A pickle names functions and classes ("GLOBAL"). Here each name gets one of three fates:

- a few harmless ones are what they say (`ORDINARY`), or a careful version of it (`STAND_INS`);
- classes of foreign projects, and some of the standard library and torch that training scripts save, become
  `Placeholder`s: never imported, never run;
- everything else of the standard library, torch and numpy is refused, as it could run code.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any

import torch

from richrep.backbones.files.numpy_stand_ins import PlainArray, PlainDtype, make_array, make_scalar
from richrep.backbones.files.placeholder import Placeholder

ITEM_BYTES = {
    f"torch.{device}{name}Storage": size
    for device in ("", "cuda.")
    for name, size in {
        "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1,
        "Bool": 1, "ComplexFloat": 8, "ComplexDouble": 16,
    }.items()
} | {"torch.storage.UntypedStorage": 1}  # fmt: skip
"""Bytes per value of every kind of storage that is read."""

TENSOR_BUILDERS = tuple(f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3", "parameter"))

ORDINARY = {
    *ITEM_BYTES, *TENSOR_BUILDERS, "_codecs.encode", "builtins.bytearray", "builtins.complex", "builtins.set",
    "collections.Counter", "collections.OrderedDict", "torch.Size", "torch.device", "torch.nn.parameter.Parameter",
}  # fmt: skip
"""What torch's safe loader allows by itself and we allow too; besides these, torch's types such as `torch.float32`."""

STAND_INS: dict[str, Callable[..., Any]] = {
    "argparse.Namespace": argparse.Namespace,
    "numpy.dtype": PlainDtype,
    "numpy.ndarray": PlainArray,
    **{f"numpy.{core}.multiarray._reconstruct": make_array for core in ("core", "_core")},  # numpy 1.x, 2.x
    **{f"numpy.{core}.multiarray.scalar": make_scalar for core in ("core", "_core")},
}
"""What torch's safe loader is told to allow besides, for the time of one call."""

_INERT = re.compile(  # names in the standard library, torch and numpy that become placeholders
    r"builtins\.(bool|bytes|dict|float|frozenset|int|list|object|range|slice|str|tuple)"
    r"|collections\.(defaultdict|deque)|copyreg\.(_reconstructor|__newobj_ex__)"
    r"|datetime\.(date|datetime|time|timedelta|timezone)|pathlib\.\w+|typing\.\w+"
    r"|torch\.optim\.[\w.]+|torch\.nn\.modules\.loss\.\w+|torch\.torch_version\.TorchVersion|numpy\.(bool_?|u?int\d+|float\d+|complex\d+|str_)"
)
_UNUSUAL_TENSOR = re.compile(
    r"torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_\w+|torch\.serialization\._get_layout"
)
_OF_PYTHON = sys.stdlib_module_names | {"", "torch", "numpy"}


def is_inert(name: str) -> bool:
    """Whether the object called `name` becomes a `Placeholder`."""
    return name.partition(".")[0] not in _OF_PYTHON or _INERT.fullmatch(name) is not None


def is_allowed(name: str) -> bool:
    """Whether a pickle may contain `name`, e.g. "torch._utils._rebuild_tensor_v2"; nothing is imported to find out."""
    return name in ORDINARY or name in STAND_INS or dtype_called(name) is not None or is_inert(name)


def is_unusual_tensor(name: str) -> bool:
    """Whether `name` builds a sparse, quantised or otherwise unusual tensor."""
    return _UNUSUAL_TENSOR.fullmatch(name) is not None and name not in ORDINARY


def dtype_called(name: str) -> torch.dtype | None:
    """The type called `name`, e.g. "torch.float32"; None for anything else."""
    found = vars(torch).get(name.removeprefix("torch.")) if name.startswith("torch.") else None
    return found if isinstance(found, torch.dtype) else None


def allow_list(inert: dict[str, type[Placeholder]]) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """For `torch.serialization.safe_globals`: the stand-ins, and a placeholder for each of the `inert` names."""
    return [(stand_in, name) for name, stand_in in (STAND_INS | inert).items()]
