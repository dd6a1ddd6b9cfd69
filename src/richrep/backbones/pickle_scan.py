"""Which Python objects a pickle asks for, read from its opcodes; nothing is ever imported or run."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import Path

# What torch.save writes for a dictionary of tensors; everything else is worth telling the user about.
_ORDINARY = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_\w+|torch\.(\w*Storage|Size|device|\w*float\w*|u?int\d+|bool)"
    r"|torch\.storage\.\w+Storage|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
)
_STRING_OPCODES = {"UNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"}
_MEMOIZE_OPCODES = {"PUT", "BINPUT", "LONG_BINPUT"}
_RECALL_OPCODES = {"GET", "BINGET", "LONG_BINGET"}
_MAX_STREAMS = 8  # a legacy torch file is five pickles, then raw storages


def unusual_globals(path: Path) -> tuple[str, ...]:
    """Names such as "posix.system" that the pickles in `path` (torch zip, torch legacy or plain) ask for, sorted.

    What `torch.save` needs for tensors is left out. Broken pickles are read as far as they go.
    """
    found: set[str] = set()
    for stream in _pickle_streams(path):
        _scan(stream, found)
    return tuple(sorted(name for name in found if not _ORDINARY.fullmatch(name)))


def _pickle_streams(path: Path) -> list[io.BytesIO]:
    if not zipfile.is_zipfile(path):
        return [io.BytesIO(path.read_bytes())]
    with zipfile.ZipFile(path) as archive:
        return [io.BytesIO(archive.read(name)) for name in archive.namelist() if name.endswith(".pkl")]


def _scan(stream: io.BytesIO, found: set[str]) -> None:
    """Adds the globals of up to `_MAX_STREAMS` pickles that follow each other in `stream`."""
    for _ in range(_MAX_STREAMS):
        strings: list[str] = []  # texts in the order they were pushed or recalled; STACK_GLOBAL takes the last two
        memo: dict[int, str] = {}
        try:
            for opcode, argument, _position in pickletools.genops(stream):
                _scan_opcode(opcode.name, argument, strings, memo, found)
        except Exception:  # pickletools raises whatever a broken pickle provokes; what came before it counts
            return


def _scan_opcode(name: str, argument: object, strings: list[str], memo: dict[int, str], found: set[str]) -> None:
    if name in ("GLOBAL", "INST"):
        found.add(str(argument).replace(" ", "."))
    elif name == "STACK_GLOBAL" and len(strings) >= 2:
        found.add(f"{strings[-2]}.{strings[-1]}")
    elif name in _STRING_OPCODES:
        strings.append(str(argument))
    elif name in _MEMOIZE_OPCODES and strings:
        memo[int(str(argument))] = strings[-1]
    elif name == "MEMOIZE":
        memo[len(memo)] = strings[-1] if strings else ""
    elif name in _RECALL_OPCODES and int(str(argument)) in memo:
        strings.append(memo[int(str(argument))])
