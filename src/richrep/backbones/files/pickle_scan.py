"""Which refused functions and classes a pickle names, of whatever protocol; nothing is ever imported or run."""

from __future__ import annotations

import io
import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from mmap import mmap
from typing import Any

from richrep.backbones.files.pickle_names import is_allowed, is_unusual_tensor

_STRING_OPCODES = {"UNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"}
_MEMOIZE_OPCODES = {"PUT", "BINPUT", "LONG_BINPUT"}
_RECALL_OPCODES = {"GET", "BINGET", "LONG_BINGET"}
_MAX_STREAMS = 8  # a legacy torch file is five pickles, then raw storages


def refused_names(data: bytes | mmap) -> tuple[str, ...]:
    """Names such as "posix.system" in the pickles of `data` that are refused, sorted; as `names_in` finds them."""
    return tuple(name for name in names_in(data) if not is_allowed(name) and not is_unusual_tensor(name))


def names_in(data: bytes | mmap) -> tuple[str, ...]:
    """All functions and classes that the pickles which follow each other in `data` name, sorted.

    Broken pickles are read as far as they go.
    """
    found: set[str] = set()
    stream: Any = io.BytesIO(data) if isinstance(data, bytes) else data
    stream.seek(0)
    for _ in range(_MAX_STREAMS):
        strings: list[str] = []  # texts in the order they were pushed or recalled; STACK_GLOBAL takes the last two
        memo: dict[int, str] = {}
        try:
            for opcode, argument, _position in pickletools.genops(stream):
                _scan_opcode(opcode.name, argument, strings, memo, found)
        except Exception:  # pickletools raises whatever a broken pickle provokes; what came before it counts
            break
    return tuple(sorted(found))


def modern_name(module: str, name: str) -> str:
    """ "builtins.eval" for the module "__builtin__" of Python 2 and the name "eval"."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _scan_opcode(opcode: str, argument: object, strings: list[str], memo: dict[int, str], found: set[str]) -> None:
    if opcode in ("GLOBAL", "INST"):
        module, _, name = str(argument).partition(" ")
        found.add(modern_name(module, name))
    elif opcode == "STACK_GLOBAL" and len(strings) >= 2:
        found.add(modern_name(strings[-2], strings[-1]))
    elif opcode in _STRING_OPCODES:
        strings.append(str(argument))
    elif opcode in _MEMOIZE_OPCODES and strings:
        memo[int(str(argument))] = strings[-1]
    elif opcode == "MEMOIZE":
        memo[len(memo)] = strings[-1] if strings else ""
    elif opcode in _RECALL_OPCODES and int(str(argument)) in memo:
        strings.append(memo[int(str(argument))])
