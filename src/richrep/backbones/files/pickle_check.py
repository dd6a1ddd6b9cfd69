"""Walks through a pickle as torch's safe loader will, and refuses what would harm before anything is made.

`torch.load(weights_only=True)` runs no code of a file, but it makes whatever sizes the file states: a few bytes can ask
for terabytes, or for a tensor that reaches beyond its storage. The walk follows the same instructions over values of a
few words each, so it costs about as much time as the loader's own walk and no memory for the tensors.
"""

from __future__ import annotations

import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from functools import partial
from mmap import mmap

from richrep.backbones.files.pickle_calls import call
from richrep.backbones.files.pickle_limits import MAX_INSTRUCTIONS, Limits, check_inert, check_memo, make_tuple
from richrep.backbones.files.pickle_names import STAND_INS, is_allowed, is_inert, is_unusual_tensor
from richrep.backbones.files.pickle_scan import modern_name
from richrep.backbones.files.pickle_tensors import make_storage
from richrep.backbones.files.pickle_values import (
    BrokenPickle,
    Items,
    LargePickle,
    Made,
    Name,
    RefusedPickle,
    Storage,
    Tuple,
)
from richrep.backbones.files.placeholder import Placeholder, PlaceholderList, PlaceholderMapping


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
        self._stored = stored
        self._limits = Limits(pickle_size=len(data), file_size=file_size)
        self._foreign = Items("dict")  # the entries of all objects of classes that are not loaded
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
        instructions = 0
        try:
            while (code := data[self.position]) != pickle.STOP[0]:
                self.position += 1
                instructions += 1
                if instructions > MAX_INSTRUCTIONS:
                    raise LargePickle(
                        f"takes more than {MAX_INSTRUCTIONS:,} instructions to read, which no network needs"
                    )
                if code not in handlers:
                    raise RefusedPickle(_unknown_instruction(code))
                handlers[code]()
            self.position += 1
            return self._stack.pop()
        except (IndexError, KeyError, ValueError, TypeError, AttributeError, struct.error) as error:
            raise BrokenPickle(f"{type(error).__name__} at byte {self.position:,}") from None
        finally:  # the handlers refer to the walk and it to them, so these would stay until the next collection
            self._stack, self._marks, self._memo = [], [], {}

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
        self._limits.count_container()
        self._stack.append(Items(kind))

    def _push_tuple(self, items: list[object]) -> None:
        self._stack.append(make_tuple(items, pickle_size=len(self._data)))

    def _put(self, num_bytes: int) -> None:
        position = self._length(num_bytes)
        check_memo(position, len(self._memo))
        self._memo[position] = self._stack[-1]

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
        if isinstance(target, Made) and is_inert(target.maker):
            self.inert[target.maker] = PlaceholderList
        elif isinstance(target, Items) and target.kind == "list":
            target.items += items
            target.size += len(items)
        else:
            raise BrokenPickle("it appends to something that is no list")

    def _set_items(self, items: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, Made) and is_inert(target.maker):
            self.inert[target.maker] = PlaceholderMapping
            counted = self._foreign
        elif isinstance(target, Items) and target.kind == "dict" and len(items) % 2 == 0:
            target.size += len(items) // 2
            counted = target
        else:
            raise BrokenPickle("it sets an entry of something that is no dictionary")
        for key in items[::2]:
            self._limits.count_key(counted, key)

    def _name(self) -> None:
        module = self._line()
        full = modern_name(module, self._line())
        if is_unusual_tensor(full):
            raise RefusedPickle(f"holds a sparse, quantised or otherwise unusual tensor ({full}), expected dense ones")
        if not is_allowed(full):
            raise RefusedPickle(f"asks for {full}")
        if is_inert(full):
            self.inert.setdefault(full, Placeholder)
            check_inert(len(self.inert))
        self._stack.append(Name(full))

    def _call(self) -> None:
        maker, arguments = self._pop(2)
        if not isinstance(maker, Name) or not isinstance(arguments, Tuple):
            raise BrokenPickle("it calls something that is no function")
        self._stack.append(call(maker.full, arguments.items, self._limits))

    def _build(self) -> None:
        """The state of an object, which replaces or extends what it holds."""
        target, state = self._pop(2)
        self._stack.append(target)
        is_dictionary = isinstance(target, Items) and target.kind == "dict"
        if not is_dictionary and not (
            isinstance(target, Made) and (target.maker in STAND_INS or is_inert(target.maker))
        ):
            raise RefusedPickle("changes the state of an object that has none, such as a tensor")
        for part in state.items if isinstance(state, Tuple) else [state]:
            self._limits.count_copy(part)

    def _storage(self) -> None:
        (identity,) = self._pop(1)
        self._stack.append(make_storage(identity, self.storages, self._stored))


def _unknown_instruction(code: int) -> str:
    opcode = next((opcode for opcode in pickletools.opcodes if opcode.code == chr(code)), None)
    name = f"{opcode.name} of pickle protocol {opcode.proto}" if opcode else f"byte {code}"
    return f"uses the instruction {name}, which torch's safe loading does not know"
