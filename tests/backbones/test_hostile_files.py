"""Files made to do harm: they are refused with a reason or read without harm, run nothing, and get no memory.

The pickles are put together here instruction by instruction, as no torch.save writes them.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import socket
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from richrep.backbones.addresses import load_backbone
from richrep.backbones.checkpoint import load_checkpoint
from richrep.errors import AddressError, CheckpointError

ONE = {"0": struct.pack("<2f", 1.0, 2.0)}  # a storage of two float32
CANARY = "canary"  # what the files try to create in the working directory
MAX_EXTRA_BYTES = 400_000_000  # what a file may make the process ask for; the files here are far smaller


@pytest.fixture(autouse=True)
def in_a_cage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working directory, in which nothing may appear, and little memory where the system can enforce it."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    modules, allowed = set(sys.modules), torch.serialization.get_safe_globals()
    try:
        if sys.platform == "linux":
            import resource

            pages = int(Path("/proc/self/statm").read_text().split()[0])
            before = resource.getrlimit(resource.RLIMIT_AS)
            limit = pages * resource.getpagesize() + MAX_EXTRA_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
        yield
    finally:
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_AS, before)
    assert list((tmp_path / "work").iterdir()) == []
    assert not {"nobody", "antigravity", "this"} & (set(sys.modules) - modules)
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


def name(full: str) -> bytes:
    module, _, last = full.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def list_of(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def dictionary(**entries: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def call(function: str, *arguments: bytes) -> bytes:
    return name(function) + tuple_of(*arguments) + b"R"


def storage(kind: str = "torch.FloatStorage", key: str = "0", count: int = 2) -> bytes:
    return tuple_of(text("storage"), name(kind), text(key), text("cuda:0"), number(count)) + b"Q"


def tensor(
    shape: tuple[int, ...] = (2,), strides: tuple[int, ...] = (1,), offset: int = 0, of: bytes | None = None
) -> bytes:
    place = (storage() if of is None else of, number(offset), tuple_of(*map(number, shape)))
    steps = tuple_of(*map(number, strides))
    return call("torch._utils._rebuild_tensor_v2", *place, steps, b"\x89", call("collections.OrderedDict"))


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def zip_file(body: bytes, storages: Mapping[str, bytes] = ONE, **more: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", pickled(body))
        archive.writestr("x/version", b"3\n")
        for key, raw in storages.items():
            archive.writestr(f"x/data/{key}", raw)
        for member, raw in more.items():
            archive.writestr(member, raw)
    return buffer.getvalue()


def legacy_file(body: bytes, storages: Mapping[str, bytes] = ONE) -> bytes:
    """Storages follow the pickles, and each name of one ends with a view, which is None."""
    head = pickled(number(0x1950A86A20F9469CFC6C)) + pickled(number(1001)) + pickled(b"}")
    tail = b"".join(struct.pack("<q", len(raw) // 4) + raw for raw in storages.values())
    return head + pickled(body.replace(b"tQ", b"NtQ")) + pickled(list_of(*map(text, storages))) + tail


FILES: dict[str, Callable[..., bytes]] = {"zip": zip_file, "legacy": legacy_file}


def load(content: bytes) -> dict[str, torch.Tensor]:
    path = Path.cwd().parent / "hostile.pth"
    path.write_bytes(content)
    return load_checkpoint(path, formats={}).tensors


def refuse(content: bytes, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        load(content)


RUN = text(f"touch {CANARY}")
EVALUATE = text(f"__import__('os').system('touch {CANARY}')")


@pytest.mark.parametrize("how", FILES)
def test_a_file_made_by_hand_loads_when_it_is_harmless(how: str) -> None:
    assert torch.equal(load(FILES[how](dictionary(w=tensor())))["w"], torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("how", FILES)
@pytest.mark.parametrize(
    ("function", "argument"),
    [
        ("os.system", RUN),
        ("posix.system", RUN),
        ("nt.system", RUN),
        ("subprocess.call", list_of(text("touch"), text(CANARY))),
        ("builtins.eval", EVALUATE),
        ("builtins.exec", EVALUATE),
        ("__builtin__.eval", EVALUATE),
        ("builtins.__import__", text("antigravity")),
        ("builtins.getattr", text("x")),
        ("builtins.open", text(CANARY)),
        ("importlib.import_module", text("this")),
        ("runpy.run_path", text("x")),
        ("pty.spawn", text("sh")),
        ("shutil.rmtree", text(".")),
        ("socket.create_connection", text("x")),
        ("functools.partial", text("x")),
        ("operator.attrgetter", text("x")),
        ("types.CodeType", text("x")),
        ("sys.exit", text("x")),
        ("pickle.loads", text("x")),
        ("pathlib.os.system", RUN),
        ("collections.abc.sys.exit", text("x")),
        ("torch.load", text("x")),
        ("torch.hub.load", text("x")),
        ("torch.storage._load_from_bytes", text("x")),
        ("torch._dynamo.reset", text("x")),
        ("torch.FloatTensor", number(10**12)),
        ("numpy.load", text("x")),
        ("numpy.f2py.compile", text("x")),
        ("numpy.core.multiarray.fromfile", text("/etc/passwd")),
        (".os.system", RUN),
    ],
)
@pytest.mark.parametrize("where", ["on top", "in a dictionary", "in the optimizer", "as a class"])
def test_functions_that_could_run_code_are_named(how: str, function: str, argument: bytes, where: str) -> None:
    made = name(function) if where == "as a class" else call(function, argument)
    nested = name("collections.OrderedDict") + b")R" + text("x") + made + b"s"
    body = {
        "on top": made,
        "in a dictionary": dictionary(w=tensor(), x=nested),
        "in the optimizer": dictionary(w=tensor(), optimizer=dictionary(state=list_of(made))),
        "as a class": dictionary(w=tensor(), x=made),
    }[where]
    shown = re.escape(function.replace("__builtin__", "builtins"))
    refuse(FILES[how](body), rf"asks for Python objects beyond tensors: {shown}\. Loading .* nothing was loaded")


@pytest.mark.parametrize("how", FILES)
def test_classes_nobody_has_are_neither_imported_nor_run(how: str) -> None:
    made = call("nobody.system", RUN) + dictionary(command=RUN) + b"b"
    body = dictionary(w=tensor(), optimizer=made, other=name("nobody.Evil") + tuple_of(RUN) + b"\x81")
    assert load(FILES[how](body)).keys() == {"w"}


class RunsCode:
    def __reduce__(self) -> object:
        return os.system, (f"touch {CANARY}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol_are_refused_by_name(protocol: int) -> None:
    refuse(pickle.dumps({"x": [RunsCode()]}, protocol), r"beyond tensors: (posix|nt)\.system\. ")


def test_a_class_instantiated_by_the_oldest_instruction_is_named() -> None:
    refuse(b"(S'touch canary'\nios\nsystem\n.", r"beyond tensors: os\.system\. ")


def test_a_name_put_together_through_the_memo_is_named() -> None:
    body = b"\x8c\x05posix\x94\x8c\x06system\x9400h\x00h\x01\x93" + RUN + b"\x85R"
    refuse(b"\x80\x04" + body + b".", r"beyond tensors: posix\.system\. ")
    refuse(zip_file(body), r"beyond tensors: posix\.system\. ")


def test_harmless_instructions_that_torch_does_not_know_are_said() -> None:
    refuse(zip_file(b"\x8c\x01x"), "uses the instruction SHORT_BINUNICODE of pickle protocol 4")


@pytest.mark.parametrize("how", FILES)
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (tensor((10**12,)), r"shape \(1000000000000,\) that reaches beyond its storage of 8 bytes"),
        (tensor((2, 2), (1, 1), 1), r"shape \(2, 2\) that reaches beyond its storage"),
        (tensor((2,), (2**62,)), "reaches beyond its storage"),
        (tensor(offset=1), "reaches beyond its storage"),
        (tensor(offset=-1), "the size or position -1, expected a number >= 0"),
        (tensor((-2,)), "the size or position -2"),
        (tensor((2,), (-1,)), "the size or position -1"),
        (tensor((1,) * 65, (1,) * 65), "reaches beyond its storage"),
        (tensor((10**12,), (0,)), "repeat the same values, more than the file could hold"),
        (tensor(of=text("storage")), "holds a tensor without a storage"),
        (
            call("torch._utils._rebuild_parameter", text("x"), b"\x89", b"N"),
            "a parameter of something that is no tensor",
        ),
        (tensor() + dictionary(x=RUN) + b"b", "changes the state of an object that has none, such as a tensor"),
        (list_of(storage(), storage(count=3)), "describes storage '0' in two ways|has at most 8"),
        (list_of(storage(), storage("torch.ByteStorage", count=8)), "describes storage '0' in two ways"),
        (storage("torch.storage.TypedStorage"), r"beyond tensors: torch\.storage\.TypedStorage|unknown kind"),
        (storage("collections.OrderedDict"), "names a storage of an unknown kind"),
        (text("storage") + b"Q", "truncated or corrupt"),
        (call("torch._utils._rebuild_sparse_tensor", text("x")), "sparse, quantised or otherwise unusual tensor"),
        (call("torch._utils._rebuild_qtensor", text("x")), "sparse, quantised or otherwise unusual tensor"),
        (call("torch._utils._rebuild_meta_tensor_no_storage", text("x")), "otherwise unusual tensor"),
        (call("torch._tensor._rebuild_from_type_v2", name("nobody.Subclass")), "otherwise unusual tensor"),
        (call("builtins.bytearray", number(10**12)), "calls builtins.bytearray in a way that could make values of any"),
        (call("torch.storage.UntypedStorage", number(10**12)), "calls torch.storage.UntypedStorage in a way"),
        (call("numpy.ndarray", tuple_of(number(10**12))), r"calls numpy\.ndarray in a way"),
        (call("_codecs.encode", text("x"), text("hex")), r"encodes a text as \['hex'\], expected latin1"),
        (call("numpy.dtype", text("V8"), b"\x89", b"\x88"), "numpy array of type 'V8', expected numbers or texts"),
        (call("numpy.dtype", text("O8,f8"), b"\x89", b"\x88"), "numpy array of type 'O8,f8'"),
        (b")" + b"\x85" * 200, "tuples in tuples, 101 levels"),
        (b")" + b"q\x00h\x00\x86" * 60, "tuples in tuples"),
        (b"}" + tuple_of(*[b"N"] * 2000) + b"Ns", "a tuple of 2,000 values as a key"),
        (
            list_of(text("x" * 1000) + b"q\x00", call("builtins.bytearray", b"h\x00") * 20),
            "copies the same values again and",
        ),
        (
            list_of(list_of(b"N" * 1000) + b"q\x00", call("builtins.set", b"h\x00") * 20),
            "copies the same values again and",
        ),
    ],
)
def test_pickles_that_ask_for_more_than_they_hold_are_refused(how: str, body: bytes, reason: str) -> None:
    refuse(FILES[how](body), reason)


@pytest.mark.parametrize("how", FILES)
def test_numpy_arrays_must_hold_what_their_shape_says(how: str) -> None:
    dtype = call("numpy.dtype", text("f8"), b"\x89", b"\x88")
    empty = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), tuple_of(number(0)), text("b"))
    for shape in (10**12, -1, 2):
        state = tuple_of(number(1), tuple_of(number(shape)), dtype, b"\x89", text("12345678"))
        refuse(FILES[how](dictionary(w=tensor(), x=empty + state + b"b")), rf"numpy array of shape \({shape},\)")
    wrong = tuple_of(number(1), tuple_of(number(1)), text("f8"), b"\x89", text("12345678"))
    refuse(FILES[how](dictionary(w=tensor(), x=empty + wrong + b"b")), "truncated or corrupt")
    nothing = call("numpy.core.multiarray.scalar", dtype, text("1234"))
    refuse(FILES[how](dictionary(w=tensor(), x=nothing)), "truncated or corrupt")


def test_storages_that_a_zip_file_lacks_are_refused() -> None:
    refuse(zip_file(tensor(), {}), r"asks for storage '0' of 8 bytes, and has at most 0 of them")
    refuse(zip_file(tensor(of=storage(count=10**12))), r"asks for storage '0' of 4,000,000,000,000 bytes")
    refuse(zip_file(tensor(of=storage(key="../version"))), "and has at most 0 of them")


def test_storages_of_a_legacy_file_must_be_there_once_and_as_long_as_said() -> None:
    good = legacy_file(dictionary(w=tensor()))
    refuse(good.replace(struct.pack("<q", 2), struct.pack("<q", 3)), "size of storage '0' is stated in two ways")
    refuse(legacy_file(tensor(of=storage(count=10**12))), "ends within storage '0'")
    refuse(legacy_file(dictionary(w=tensor()), {}), "lists 0 storages and needs 1")
    refuse(legacy_file(dictionary(w=tensor()), ONE | {"1": b""}), "lists 2 storages and needs 1")
    view = b"(" + text("v") + number(1) + number(2) + b"t"
    refuse(good.replace(b"NtQ", view + b"tQ"), "a view that reaches beyond storage '0'")


@pytest.mark.parametrize("how", FILES)
def test_containers_that_contain_themselves_do_not_hang(how: str) -> None:
    itself = b"]q\x01h\x01a"
    body = b"}q\x00(" + text("w") + tensor() + text("model") + b"h\x00" + text("args") + itself + b"u"
    with pytest.raises(CheckpointError, match=r"network|tensors"):
        load(FILES[how](b"}q\x00" + text("model") + b"h\x00s", {}))
    assert "w" in load(FILES[how](body))


@pytest.mark.parametrize("how", FILES)
def test_deep_nesting_is_harmless(how: str) -> None:
    assert load(FILES[how](dictionary(w=tensor(), x=b"]" * 100_000 + b"a" * 99_999))).keys() == {"w"}


def test_a_million_entries_take_seconds() -> None:
    torch.save({"w": torch.zeros(1), "log": {f"{i}": i for i in range(1_000_000)}}, "../hostile.pth")
    start = time.perf_counter()
    assert load_checkpoint(Path("../hostile.pth")).tensors.keys() == {"w"}
    assert time.perf_counter() - start < 60


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"](" + b"N" * 5_000_001 + b"e", "takes more than 5,000,000 instructions to read"),
        (b"](" + b"}" * 500_001 + b"e", "holds more than 500,000 lists or dictionaries"),
        (b"](" + tensor() + b"q\x00" + tensor() * 50_000 + b"e", "holds more than 50,000 tensors"),
    ],
)
def test_more_values_than_any_training_has_are_refused(body: bytes, reason: str) -> None:
    refuse(zip_file(body), reason)


def colliding(count: int) -> list[bytes]:
    """Numbers of one hash, which Python takes modulo 2**61 - 1; dictionaries of them take time by the square."""
    return [number(i * (2**61 - 1)) for i in range(1, count + 1)]


@pytest.mark.parametrize("how", FILES)
@pytest.mark.parametrize("where", ["dictionary", "set", "ordered", "state", "foreign", "many", "copies"])
def test_keys_made_to_collide_are_refused_in_time(how: str, where: str) -> None:
    keys = colliding(11_000)
    entries = b"".join(key + b"N" for key in keys)
    filled = b"}(" + entries + b"u"
    few = b"}(" + b"".join(key + b"N" for key in keys[:2500]) + b"uq\x05"
    body = {
        "dictionary": filled,
        "set": call("builtins.set", list_of(*keys)),
        "ordered": call("collections.OrderedDict", list_of(*(list_of(key, b"N") for key in keys))),
        "state": call("argparse.Namespace") + filled + b"b",
        "foreign": call("nobody.Config") + b"(" + entries + b"u",
        "many": list_of(*(b"}(" + b"".join(key + b"N" for key in keys[:100]) + b"u" for _ in range(120))),
        "copies": list_of(few, *[call("collections.OrderedDict", b"h\x05")] * 5),
    }[where]
    start = time.perf_counter()
    refuse(FILES[how](dictionary(w=tensor(), x=body)), "more than 10,000 keys that are neither texts nor numbers")
    assert time.perf_counter() - start < 60  # without the limit: hours for a file of some megabytes


def test_keys_of_honest_files_are_read() -> None:
    log = b"}(" + b"".join(number(step) + b"N" for step in range(50_000)) + b"u"
    states = b"}(" + b"".join(number(139_000_000_000_000 + 48 * i) + b"N" for i in range(3000)) + b"u"
    pairs = call("collections.OrderedDict", list_of(*(list_of(text(f"layer{i}"), b"N") for i in range(20_000))))
    assert load(zip_file(dictionary(w=tensor(), log=log, states=states, pairs=pairs))).keys() == {"w"}


def test_a_memo_with_leaps_is_refused() -> None:
    refuse(zip_file(dictionary(w=tensor(), x=b"Nr" + struct.pack("<I", 2**31))), "numbers its values in leaps")


@pytest.mark.parametrize("protocol", [0, 1])
def test_a_plain_pickle_of_an_old_protocol_says_what_it_names(protocol: int) -> None:
    refuse(
        pickle.dumps(Harmless(), protocol),
        r"not a checkpoint: a plain pickle that names .*copyreg\._reconstructor, .*Harmless, expected",
    )


class Harmless:
    pass


@pytest.mark.parametrize("how", FILES)
def test_every_truncation_is_refused(how: str) -> None:
    whole = FILES[how](dictionary(w=tensor(), epoch=number(3)))
    for size in range(1, len(whole)):
        refuse(whole[:size], "hostile.pth")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_is_not_unpacked(compression: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("x/data.pkl", pickled(dictionary(w=tensor())))
        archive.writestr("x/data/0", b"\0" * 1_000_000)
    refuse(buffer.getvalue(), "is a compressed archive; torch.save writes none")


def with_member(content: bytes, member: str, change: Callable[[bytearray], None]) -> bytes:
    """The archive with the fixed part of the directory's entry of `member` changed."""
    changed = bytearray(content)
    start = content.rindex(b"PK\x01\x02", 0, content.rindex(member.encode()))
    entry = changed[start : start + 46]
    change(entry)
    changed[start : start + 46] = entry
    return bytes(changed)


def put(at: int, layout: str, *values: int) -> Callable[[bytearray], None]:
    return lambda entry: struct.pack_into(layout, entry, at, *values)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(20, "<LL", 2**31, 2**31), "overlaps what follows it"),
        (put(24, "<L", 2**31), "two sizes of 'x/data/0'"),
        (put(8, "<H", 1), "encrypted members"),
        (put(42, "<L", 0), "overlaps what follows it"),
        (put(42, "<L", 5), "is not where it should be"),
        (put(42, "<L", 2**31), "is not where it should be"),
        (put(10, "<H", 99), "compressed archive"),
    ],
)
def test_zip_entries_that_lie_are_refused(change: Callable[[bytearray], None], reason: str) -> None:
    refuse(with_member(zip_file(dictionary(w=tensor())), "x/data/0", change), reason)


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ("x/../../canary", "a member called 'x/../../canary'"),
        ("/canary", "a member called '/canary'"),
        ("y/data/0", "a member called 'y/data/0'"),
        ("x/a\\..\\b", "a member called"),
        ("x/DATA.PKL", "two members of one name"),
        ("x/constants.pkl", "is a TorchScript program"),
    ],
)
def test_zip_members_with_other_names_are_refused(member: str, reason: str) -> None:
    refuse(zip_file(dictionary(w=tensor()), ONE, **{member: b"touch canary"}), reason)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_second_member_of_the_same_name_is_refused() -> None:
    refuse(
        zip_file(dictionary(w=tensor()), ONE, **{"x/data.pkl": pickled(call("os.system", RUN))}), "two members of one"
    )


def test_an_archive_with_a_second_directory_is_refused() -> None:
    good, evil = zip_file(dictionary(w=tensor())), zip_file(call("os.system", RUN))
    refuse(evil + good, "the archive's directory is not where it should be")
    refuse(good + b"x" * 30, "something follows the archive's directory")
    assert good.endswith(struct.pack("<H", 0))
    refuse(good[:-2] + struct.pack("<H", len(evil)) + evil, "truncated or corrupt|beyond tensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(resnet20_tensors: dict[str, torch.Tensor], value: float) -> None:
    torch.save({**resnet20_tensors, "conv1.weight": torch.full((16, 3, 3, 3), value)}, "../hostile.pth")
    with pytest.raises(CheckpointError, match=r"1 tensors hold values that are not finite .*conv1\.weight"):
        load_backbone("../hostile.pth")


def npz_of(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def npz_of_raw(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, raw in members.items():
            archive.writestr(f"{member}.npy", raw)
    return buffer.getvalue()


def npy_header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npz_of(x=np.array([RunsCode()], dtype=object)), "array 'x' holds Python objects, which are never loaded"),
        (npz_of(a=np.zeros(1), **{"b/c": np.array([{}])}), "array 'b/c' holds Python objects"),
        (npz_of(x=np.zeros(10_000_000)), "would unpack to 80,000,128, expected at most 20 times as many"),
        (npz_of(x=np.array(["text"])), "array 'x' is of type <U4, expected numbers"),
        (npz_of(x=np.zeros(2, dtype="f4,i4")), "expected numbers that torch knows"),
        (npz_of_raw(**{f"a{i}": npy_header("()") + b"\0" * 4 for i in range(10_001)}), "holds 10,001 arrays, expected"),
        (npz_of_raw(x=npy_header("(1000000000000,)")), r"the shape \(1000000000000,\) and 0 bytes"),
        (npz_of_raw(x=npy_header("(-1,)") + b"\0" * 4), r"the shape \(-1,\)"),
        (npz_of_raw(x=npy_header("(2,)") + b"\0" * 4), r"the shape \(2,\) and 4 bytes, expected 8"),
        (npz_of_raw(x=npy_header("(__import__('os').system('touch canary'),)")), "truncated or corrupt numpy archive"),
        (npz_of_raw(x=npy_header("(" * 100)), "truncated or corrupt numpy archive"),
        (npz_of_raw(x=pickle.dumps(RunsCode())), "truncated or corrupt numpy archive"),
        (npz_of_raw(x=npy_header("()", "'|O'") + pickle.dumps(RunsCode())), "array 'x' holds Python objects"),
        (npz_of_raw(x=b""), "truncated or corrupt numpy archive"),
    ],
)
def test_numpy_archives_are_read_without_pickles_and_within_bounds(content: bytes, reason: str) -> None:
    refuse(content, reason)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_numpy_archive_with_two_arrays_of_one_name_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for _ in range(2):
            archive.writestr("x.npy", npy_header("()") + b"\0" * 4)
    refuse(buffer.getvalue(), "two arrays of the same name")


def safetensors_of(header: str, payload: bytes = b"\0" * 8, length: int | None = None) -> bytes:
    raw = header.encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + payload


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> str:
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": [start, end]})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (safetensors_of(f'{{"a": {entry([2], 0, 8)}, "b": {entry([2], 0, 8)}}}'), "corrupt safetensors file"),
        (safetensors_of(f'{{"a": {entry([2], 0, 8)}, "a": {entry([2], 0, 8)}}}'), "two entries are called 'a'"),
        (safetensors_of(f'{{"a": {entry([10**12], 0, 4 * 10**12)}}}'), "corrupt safetensors file"),
        (safetensors_of(f'{{"a": {entry([2**62, 8], 0, 8)}}}'), "corrupt safetensors file"),
        (safetensors_of(f'{{"a": {entry([-2], 0, 8)}}}'), "corrupt safetensors file"),
        (safetensors_of(f'{{"a": {entry([2], 8, 0)}}}'), "corrupt safetensors file"),
        (safetensors_of(f'{{"a": {entry([2], 0, 8)}}}', b""), "corrupt safetensors file"),
        (safetensors_of(f'{{"a": {entry([2], 0, 8)}}}', length=2**62), "is not a checkpoint"),
        (safetensors_of(f'{{"a": {entry([2], 0, 8)}}}', length=90_000_000), "corrupt safetensors file"),
        (safetensors_of('{"a": ' + "[" * 100_000 + "}"), "corrupt safetensors file"),
        (safetensors_of("{}", b""), "holds no tensors"),
    ],
)
def test_safetensors_whose_header_lies_are_refused(content: bytes, reason: str) -> None:
    refuse(content, reason)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    (tmp_path / "zeros.pth").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket.pth"))
    for file, reason in {
        "pipe.pth": "is a pipe, expected a checkpoint file",
        "zeros.pth": "is a device, expected a checkpoint file",
        "socket.pth": "is a socket, expected a checkpoint file",
        "loop.pth": "Too many levels of symbolic links",
    }.items():
        with pytest.raises(CheckpointError, match=reason):
            load_checkpoint(tmp_path / file)
        with pytest.raises(CheckpointError):
            load_backbone(str(tmp_path / file))


@pytest.mark.parametrize(
    "path", ["a\0b.pth", "x" * 300 + ".pth", "/" + "y" * 5000, "~nosuchuser/x.pth", "a/b\0/c.npz", "./x\0#ema"]
)
def test_paths_that_no_system_has_are_said(path: str) -> None:
    for load_it in (load_checkpoint, load_backbone):
        with pytest.raises(CheckpointError, match=r"No such checkpoint file|Cannot read"):
            load_it(path)  # type: ignore[operator]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_in_a_folder_without_permission_is_said(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    for address in (str(tmp_path / "closed" / "x.pth"), f"resnet20@{tmp_path / 'closed' / 'x.pth'}"):
        with pytest.raises(CheckpointError, match=r"Cannot read .*Permission denied"):
            load_backbone(address)


def test_an_empty_address_is_said() -> None:
    with pytest.raises(AddressError, match=r"The address of a backbone is empty\. Known forms"):
        load_backbone("")


def test_shards_outside_their_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.safetensors").write_bytes(safetensors_of(f'{{"a": {entry([2], 0, 8)}}}'))
    folder = tmp_path / "model"
    folder.mkdir()
    for shard in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), "..", ""):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
        with pytest.raises(CheckpointError, match=r"names files outside its folder: .*Nothing was loaded"):
            load_checkpoint(folder)
