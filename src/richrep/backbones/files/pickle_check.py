"""Walks through a pickle as torch's safe loader will, and refuses what would harm before anything is made.

`torch.load(weights_only=True)` runs no code of a file, but it makes whatever sizes the file states: a few bytes can ask
for terabytes, or for a tensor that reaches beyond its storage. The walk follows the same instructions over values of a
few words each, so it costs about as much time as the loader's own walk and no memory for the tensors.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from mmap import mmap

from richrep.backbones.files.numpy_stand_ins import is_plain
from richrep.backbones.files.pickle_names import (
    ITEM_BYTES,
    STAND_INS,
    dtype_called,
    is_allowed,
    is_inert,
    is_unusual_tensor,
)
from richrep.backbones.files.pickle_scan import modern_name
from richrep.backbones.files.placeholder import Placeholder, PlaceholderList, PlaceholderMapping

_MAX_INERT = 500  # torch takes time that grows with their square
_MAX_TUPLE_DEPTH = 100  # Python hashes nested tuples by recursion, and crashes on very deep ones
_MAX_KEY_VALUES = 1000  # in a tuple that is a key of a dictionary
_MAX_DIMENSIONS = 64  # torch's own limit for most operations
_MAX_COPIES = 4  # bytes copied by the pickle's calls, per byte of the pickle: numpy's arrays need 3
_MAX_VIEWS = 16  # bytes of all tensors together, per byte of the file: tensors may share storages
_SLACK = 1024  # bytes, for the smallest files


class RefusedPickle(Exception):
    """Why a pickle is not read, in words that follow the name of the file."""


class BrokenPickle(Exception):
    """The pickle is truncated or no pickle."""


@dataclass(slots=True)
class Storage:
    """A storage of `size` bytes, read in items of `item_bytes`."""

    size: int
    item_bytes: int


@dataclass(slots=True, eq=False)
class _Name:
    """A function or class that the pickle names."""

    full: str


@dataclass(slots=True, eq=False)
class _Made:
    """What a call of `maker` gave."""

    maker: str


@dataclass(slots=True, eq=False)
class _Bytes:
    """Bytes, which a call made from a text."""

    size: int


@dataclass(slots=True, eq=False)
class _Tuple:
    """A tuple; `values` counts what it holds through all levels, as often as it is held."""

    items: list[object]
    depth: int
    values: int


@dataclass(slots=True, eq=False)
class _Items:
    """A list, dictionary or set of `size` entries; only a list keeps them."""

    kind: str
    size: int = 0
    items: list[object] = field(default_factory=list)


# What each function takes. A number would let some make any size, an object of unknown size any number of copies.
_ARGUMENTS: dict[str, tuple[type, ...]] = {
    "collections.OrderedDict": (_Items,),
    "collections.Counter": (_Items,),
    "builtins.set": (_Items,),
    "builtins.bytearray": (str, _Bytes),
    "builtins.complex": (int, float),
    "_codecs.encode": (str,),
    "torch.Size": (_Tuple,),
    "torch.device": (str, int),
    "argparse.Namespace": (),
    "numpy.dtype": (str, int),
    **{f"numpy.{core}.multiarray._reconstruct": (_Name, _Tuple, _Bytes, str) for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": (_Made, _Bytes, str) for core in ("core", "_core")},
}
_KINDS = {"collections.OrderedDict": "dict", "collections.Counter": "dict", "builtins.set": "set"}


class PickleWalk:
    """A walk through the pickles that follow each other in `data`.

    Attributes:
        position: where the next pickle starts.
        storages: key -> every storage that the pickles ask for.
        inert: name -> placeholder of every class that is not loaded.

    Args:
        file_size: in bytes.
        stored: key -> bytes of every storage in the file; None when they follow the pickles.
    """

    def __init__(self, data: bytes | mmap, *, file_size: int, stored: Mapping[str, int] | None = None) -> None:
        self.position = 0
        self.storages: dict[str, Storage] = {}
        self.inert: dict[str, type[Placeholder]] = {}
        self._data = data
        self._file_size = file_size
        self._stored = stored
        self._copied = 0
        self._viewed = 0
        self._stack: list[object] = []
        self._marks: list[list[object]] = []
        self._memo: dict[int, object] = {}
        self._handlers = self._instructions()

    def run(self) -> object:
        """What the next pickle holds: numbers and texts as they are, everything else in the classes of this file.

        Raises:
            RefusedPickle: the pickle asks for something that is not allowed or does not fit its file.
            BrokenPickle: the pickle is broken.
        """
        self._stack, self._marks, self._memo = [], [], {}
        data, handlers = self._data, self._handlers
        try:
            while (code := data[self.position]) != pickle.STOP[0]:
                self.position += 1
                if code not in handlers:
                    raise RefusedPickle(_unknown_instruction(code))
                handlers[code]()
            self.position += 1
            return self._stack.pop()
        except (IndexError, KeyError, ValueError, TypeError, AttributeError, struct.error) as error:
            raise BrokenPickle(f"{type(error).__name__} at byte {self.position:,}") from None

    def _instructions(self) -> dict[int, Callable[[], None]]:
        """Opcode -> what it does: those of protocol 2, which torch's safe loader reads."""
        constants = ((pickle.NONE, None), (pickle.NEWTRUE, True), (pickle.NEWFALSE, False))
        numbers = ((pickle.BININT, "<i"), (pickle.BININT1, "<B"), (pickle.BININT2, "<H"), (pickle.BINFLOAT, ">d"))
        empty = ((pickle.EMPTY_LIST, "list"), (pickle.EMPTY_DICT, "dict"), (pickle.EMPTY_SET, "set"))
        return {
            **{code[0]: partial(self._push, value) for code, value in constants},
            **{code[0]: partial(self._push_number, struct.Struct(layout)) for code, layout in numbers},
            **{code[0]: partial(self._push_items, kind) for code, kind in empty},
            pickle.BINPUT[0]: partial(self._put, 1),
            pickle.LONG_BINPUT[0]: partial(self._put, 4),
            pickle.BINGET[0]: partial(self._get, 1),
            pickle.LONG_BINGET[0]: partial(self._get, 4),
            pickle.PROTO[0]: lambda: self._skip(1),
            pickle.BINUNICODE[0]: lambda: self._push(str(self._take(self._length(4)), "utf-8", "surrogatepass")),
            pickle.SHORT_BINSTRING[0]: lambda: self._push(str(self._take(self._length(1)), "latin1")),
            pickle.LONG1[0]: lambda: self._push(int.from_bytes(self._take(self._length(1)), "little", signed=True)),
            pickle.MARK[0]: self._mark,
            pickle.EMPTY_TUPLE[0]: lambda: self._push_tuple([]),
            pickle.TUPLE1[0]: lambda: self._push_tuple(self._pop(1)),
            pickle.TUPLE2[0]: lambda: self._push_tuple(self._pop(2)),
            pickle.TUPLE3[0]: lambda: self._push_tuple(self._pop(3)),
            pickle.TUPLE[0]: lambda: self._push_tuple(self._pop_to_mark()),
            pickle.APPEND[0]: lambda: self._append(self._pop(1)),
            pickle.APPENDS[0]: lambda: self._append(self._pop_to_mark()),
            pickle.SETITEM[0]: lambda: self._set_items(self._pop(2)),
            pickle.SETITEMS[0]: lambda: self._set_items(self._pop_to_mark()),
            pickle.GLOBAL[0]: self._name,
            pickle.REDUCE[0]: self._call,
            pickle.NEWOBJ[0]: self._call,
            pickle.BUILD[0]: self._build,
            pickle.BINPERSID[0]: self._storage,
        }

    def _take(self, count: int) -> bytes:
        chunk = self._data[self.position : self.position + count]
        if len(chunk) < count:
            raise BrokenPickle("it ends within a value")
        self.position += count
        return chunk

    def _skip(self, count: int) -> None:
        self.position += count

    def _length(self, num_bytes: int) -> int:
        return int.from_bytes(self._take(num_bytes), "little")

    def _line(self) -> str:
        end = self._data.find(b"\n", self.position)
        if end < 0:
            raise BrokenPickle("it ends within a name")
        line = self._take(end - self.position).decode()
        self._skip(1)
        return line

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _push_number(self, layout: struct.Struct) -> None:
        (number,) = layout.unpack_from(self._data, self.position)
        self._skip(layout.size)
        self._stack.append(number)

    def _push_items(self, kind: str) -> None:
        self._stack.append(_Items(kind))

    def _push_tuple(self, items: list[object]) -> None:
        tuples = [item for item in items if isinstance(item, _Tuple)]
        depth = 1 + max((item.depth for item in tuples), default=0)
        values = len(items) + sum(item.values for item in tuples)
        if depth > _MAX_TUPLE_DEPTH or values > len(self._data):
            raise RefusedPickle(f"holds tuples in tuples, {depth} levels with {values:,} values; no network needs it")
        self._stack.append(_Tuple(items, depth, values))

    def _put(self, num_bytes: int) -> None:
        self._memo[self._length(num_bytes)] = self._stack[-1]

    def _get(self, num_bytes: int) -> None:
        self._stack.append(self._memo[self._length(num_bytes)])

    def _mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _pop(self, count: int) -> list[object]:
        return [self._stack.pop() for _ in range(count)][::-1]

    def _pop_to_mark(self) -> list[object]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _append(self, items: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, _Made) and is_inert(target.maker):
            self.inert[target.maker] = PlaceholderList
        elif isinstance(target, _Items) and target.kind == "list":
            target.items += items
            target.size += len(items)
        else:
            raise BrokenPickle("it appends to something that is no list")

    def _set_items(self, items: list[object]) -> None:
        target = self._stack[-1]
        for key in items[::2]:
            if isinstance(key, _Tuple) and key.values > _MAX_KEY_VALUES:
                raise RefusedPickle(f"holds a dictionary with a tuple of {key.values:,} values as a key")
        if isinstance(target, _Made) and is_inert(target.maker):
            self.inert[target.maker] = PlaceholderMapping
        elif isinstance(target, _Items) and target.kind == "dict" and len(items) % 2 == 0:
            target.size += len(items) // 2
        else:
            raise BrokenPickle("it sets an entry of something that is no dictionary")

    def _name(self) -> None:
        module = self._line()
        full = modern_name(module, self._line())
        if is_unusual_tensor(full):
            raise RefusedPickle(f"holds a sparse, quantised or otherwise unusual tensor ({full}), expected dense ones")
        if not is_allowed(full):
            raise RefusedPickle(f"asks for {full}")
        if is_inert(full):
            self.inert.setdefault(full, Placeholder)
            if len(self.inert) > _MAX_INERT:
                raise RefusedPickle(f"names more than {_MAX_INERT} classes of foreign projects")
        self._stack.append(_Name(full))

    def _call(self) -> None:
        maker, arguments = self._pop(2)
        if not isinstance(maker, _Name) or not isinstance(arguments, _Tuple):
            raise BrokenPickle("it calls something that is no function")
        self._stack.append(self._result(maker.full, arguments.items))

    def _result(self, maker: str, arguments: list[object]) -> object:
        """What a call gives; refused when it could give more than it takes."""
        if maker.startswith("torch._utils._rebuild_tensor"):
            return self._tensor(maker, *arguments)
        if maker in ("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter"):
            return _parameter(*arguments)
        taken = (object,) if is_inert(maker) else _ARGUMENTS.get(maker)
        if taken is None or not all(isinstance(argument, taken) for argument in arguments):
            raise RefusedPickle(f"calls {maker} in a way that could make values of any size")
        if maker == "numpy.dtype" and not is_plain(arguments[0]):
            raise RefusedPickle(f"holds a numpy array of type {arguments[0]!r}, expected numbers or texts")
        if maker == "_codecs.encode" and arguments[1:] not in (["latin1"], ["utf-8"], ["ascii"]):
            raise RefusedPickle(f"encodes a text as {arguments[1:]}, expected latin1")
        size = sum(map(self._copy, arguments))
        if maker in _KINDS:
            return _Items(_KINDS[maker], size)
        return _Bytes(size) if maker in ("_codecs.encode", "builtins.bytearray") else _Made(maker)

    def _copy(self, value: object) -> int:
        """The size of a value that may be copied; refused when copies of copies pile up."""
        size = 0
        if isinstance(value, _Items | _Bytes):
            size = value.size
        elif isinstance(value, _Tuple | str):
            size = len(value.items if isinstance(value, _Tuple) else value)
        self._copied += size
        if self._copied > _MAX_COPIES * len(self._data) + _SLACK:
            raise RefusedPickle("copies the same values again and again, more than the file could hold")
        return size

    def _build(self) -> None:
        """The state of an object, which replaces or extends what it holds."""
        target, state = self._pop(2)
        self._stack.append(target)
        is_dictionary = isinstance(target, _Items) and target.kind == "dict"
        if not is_dictionary and not (
            isinstance(target, _Made) and (target.maker in STAND_INS or is_inert(target.maker))
        ):
            raise RefusedPickle("changes the state of an object that has none, such as a tensor")
        for part in state.items if isinstance(state, _Tuple) else [state]:
            self._copy(part)

    def _storage(self) -> None:
        """A storage: ("storage", type, key, device, number of items[, view])."""
        (identity,) = self._pop(1)
        if not isinstance(identity, _Tuple):
            raise BrokenPickle("it names a storage by something that is no tuple")
        word, kind, key, _device, count, *view = identity.items
        if word != "storage" or not isinstance(kind, _Name) or kind.full not in ITEM_BYTES or not isinstance(key, str):
            raise RefusedPickle("names a storage of an unknown kind")
        item_bytes = ITEM_BYTES[kind.full]
        storage = Storage(_count(count) * item_bytes, item_bytes)
        known = self.storages.setdefault(key, storage)
        if known != storage and known.size + storage.size > 0:
            raise RefusedPickle(f"describes storage {key!r} in two ways")
        if self._stored is not None and storage.size > (there := self._stored.get(key, 0)):
            raise RefusedPickle(
                f"asks for storage {key!r} of {storage.size:,} bytes, and has at most {there:,} of them"
            )
        if view and isinstance(view[0], _Tuple):
            _view_key, start, length = view[0].items
            if _count(start) + _count(length) > _count(count):
                raise RefusedPickle(f"holds a view that reaches beyond storage {key!r}")
            storage = Storage(_count(length) * item_bytes, item_bytes)
        self._stack.append(storage)

    def _tensor(
        self, maker: str, storage: object, offset: object, shape: object, strides: object, *flags: object
    ) -> _Made:
        """A dense tensor within its storage."""
        if not (isinstance(storage, Storage) and isinstance(shape, _Tuple) and isinstance(strides, _Tuple)):
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
        self._viewed += math.prod(sizes) * item_bytes
        if self._viewed > _MAX_VIEWS * self._file_size + _SLACK:
            raise RefusedPickle("holds tensors that repeat the same values, more than the file could hold")
        return _Made(maker)


def _parameter(data: object, *flags: object) -> _Made:
    if not isinstance(data, _Made) or not data.maker.startswith("torch._utils._rebuild_tensor"):
        raise RefusedPickle("makes a parameter of something that is no tensor")
    _check_empty(*flags)
    return data


def _check_empty(*flags: object) -> None:
    """Beside `requires_grad` a tensor has hooks and other facts, which are empty in the files of torch.save."""
    if not all(
        flag is None or isinstance(flag, bool) or (isinstance(flag, _Items) and not flag.size) for flag in flags
    ):
        raise RefusedPickle("holds a tensor with hooks or attributes, expected plain ones")


def _item_bytes(dtype: object) -> int:
    found = dtype_called(dtype.full) if isinstance(dtype, _Name) else None
    if found is None:
        raise RefusedPickle("holds a tensor of an unknown type")
    return found.itemsize


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise RefusedPickle(f"holds a tensor with the size or position {value!r}, expected a number >= 0")
    return value


def _unknown_instruction(code: int) -> str:
    opcode = next((opcode for opcode in pickletools.opcodes if opcode.code == chr(code)), None)
    name = f"{opcode.name} of pickle protocol {opcode.proto}" if opcode else f"byte {code}"
    return f"uses the instruction {name}, which torch's safe loading does not know"
