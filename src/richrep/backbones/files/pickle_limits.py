"""How much a pickle may ask for: copies, nested tuples, tensors, and keys that could collide."""

from __future__ import annotations

from richrep.backbones.files.pickle_values import Bytes, Items, LargePickle, RefusedPickle, Tuple

_MAX_INERT = 500  # classes; torch takes time that grows with their square
_MAX_TUPLE_DEPTH = 100  # Python hashes nested tuples by recursion, and crashes on very deep ones
_MAX_KEY_VALUES = 1000  # in a tuple that is a key of a dictionary
_MAX_COPIES = 4  # bytes copied by the pickle's calls, per byte of the pickle: numpy's arrays need 3
_MAX_VIEWS = 16  # bytes of all tensors together, per byte of the file: tensors may share storages
# Keys whose hashes a file may choose. A dictionary takes time that grows with the square of those that collide: seconds
# for these, hours for a million. Optimisers of old files have one such key a parameter, under 3,000.
_MAX_ODD_KEYS = 10_000
_MAX_MEMO_GAP = 100_000  # the numbers of the memo count up; others could collide as well
_SMALL_KEY = 1000
# A network has under 3,000 tensors; with its average and three of the optimiser for each, 15,000. Each takes some 40
# instructions, and a history of a million entries three each.
_MAX_TENSORS = 50_000
_MAX_CONTAINERS = 500_000  # lists, dictionaries and sets; a state of an optimiser has one a parameter
MAX_INSTRUCTIONS = 5_000_000
_SLACK = 1024  # bytes, for the smallest files


class Limits:
    """What one file has asked for so far.

    Args:
        pickle_size: bytes of the pickles.
        file_size: bytes of the file.
    """

    def __init__(self, *, pickle_size: int, file_size: int) -> None:
        self._pickle_size = pickle_size
        self._file_size = file_size
        self._copied = 0
        self._viewed = 0
        self._odd_keys = 0
        self._tensors = 0
        self._containers = 0

    def count_copy(self, value: object) -> int:
        """The size of a value that may be copied; refused when copies of copies pile up."""
        size = 0
        if isinstance(value, Items | Bytes):
            size = value.size
        elif isinstance(value, Tuple | str):
            size = len(value.items if isinstance(value, Tuple) else value)
        self._copied += size
        if self._copied > _MAX_COPIES * self._pickle_size + _SLACK:
            raise RefusedPickle("copies the same values again and again, more than the file could hold")
        if isinstance(value, Items):
            self._count_odd_keys(value.odd_keys)
        return size

    def count_view(self, size: int) -> None:
        """A tensor of `size` bytes."""
        self._tensors += 1
        if self._tensors > _MAX_TENSORS:
            raise LargePickle(f"holds more than {_MAX_TENSORS:,} tensors, which no training of a network has")
        self._viewed += size
        if self._viewed > _MAX_VIEWS * self._file_size + _SLACK:
            raise RefusedPickle("holds tensors that repeat the same values, more than the file could hold")

    def count_container(self) -> None:
        """A list, dictionary or set."""
        self._containers += 1
        if self._containers > _MAX_CONTAINERS:
            raise LargePickle(f"holds more than {_MAX_CONTAINERS:,} lists or dictionaries, which no network needs")

    def count_key(self, target: Items, key: object) -> None:
        """A key of `target`. Texts have hashes that no file can choose, numbers that count up never collide."""
        if isinstance(key, str) or key is None:
            return
        if isinstance(key, int):
            expected, target.next_key = target.next_key, key + 1
            if key == expected or -_SMALL_KEY < key < _SMALL_KEY:
                return
        if isinstance(key, Tuple) and key.values > _MAX_KEY_VALUES:
            raise RefusedPickle(f"holds a dictionary with a tuple of {key.values:,} values as a key")
        target.odd_keys += 1
        self._count_odd_keys(1)

    def _count_odd_keys(self, count: int) -> None:
        self._odd_keys += count
        if self._odd_keys > _MAX_ODD_KEYS:
            raise RefusedPickle(
                f"holds dictionaries or sets with more than {_MAX_ODD_KEYS:,} keys that are neither texts nor numbers "
                "that count up, which can be made to take hours"
            )


def check_inert(count: int) -> None:
    """As many classes of foreign projects."""
    if count > _MAX_INERT:
        raise RefusedPickle(f"names more than {_MAX_INERT} classes of foreign projects")


def check_memo(position: int, size: int) -> None:
    """A value is put at `position` of a memo that holds `size`."""
    if position > size + _MAX_MEMO_GAP:
        raise RefusedPickle(f"numbers its values in leaps, {position:,} after {size:,}; no program writes that")


def make_tuple(items: list[object], *, pickle_size: int) -> Tuple:
    """A tuple of `items`, unless tuples lie in tuples too deep or too often."""
    tuples = [item for item in items if isinstance(item, Tuple)]
    depth = 1 + max((item.depth for item in tuples), default=0)
    values = len(items) + sum(item.values for item in tuples)
    if depth > _MAX_TUPLE_DEPTH or values > pickle_size:
        raise RefusedPickle(f"holds tuples in tuples, {depth} levels with {values:,} values; no network needs it")
    return Tuple(items, depth, values)
