"""Reading checkpoint files: formats, containers, prefixes, and everything that can be wrong with a file."""

from __future__ import annotations

import argparse
import collections
import datetime
import hashlib
import io
import json
import os
import pickle
import random
import sys
import types
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from richrep.backbones.addresses import load_backbone
from richrep.backbones.checkpoint import load_checkpoint
from richrep.backbones.files.placeholder import Placeholder
from richrep.backbones.files.reading import read_content
from richrep.errors import CheckpointError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2), "n": torch.tensor(3)}


def save(content: object, path: Path, how: str) -> Path:
    if how == "safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    return path


def assert_same_tensors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor] = TENSORS) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype


@pytest.mark.parametrize("how", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.jpg"])
def test_the_format_is_told_by_content_and_not_by_the_name(tmp_path: Path, how: str, name: str) -> None:
    checkpoint = load_checkpoint(save(TENSORS, tmp_path / name, how))
    assert_same_tensors(checkpoint.tensors)
    assert checkpoint.notes == ()
    assert checkpoint.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("how", ["zip", "legacy"])
@pytest.mark.parametrize("containers", [["state_dict"], ["model"], ["model_state_dict"], ["model", "state_dict"]])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."])
def test_containers_and_prefixes_are_taken_off(tmp_path: Path, how: str, containers: list[str], prefix: str) -> None:
    content: object = collections.OrderedDict((prefix + name, tensor) for name, tensor in TENSORS.items())
    for container in reversed(containers):
        content = {container: content, "epoch": 3, "optimizer": {"lr": 0.1}}
    checkpoint = load_checkpoint(save(content, tmp_path / "c.pt", how))
    assert_same_tensors(checkpoint.tensors)
    assert checkpoint.notes[0] == f"read from {containers[0]!r}; set aside: epoch, optimizer"
    assert (f"prefix {prefix!r} taken off every name" in checkpoint.notes) == bool(prefix)


def test_a_prefix_that_one_name_lacks_stays(tmp_path: Path) -> None:
    tensors = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert_same_tensors(load_checkpoint(save(tensors, tmp_path / "c.pt", "zip")).tensors, tensors)


def test_metadata_of_safetensors_is_kept(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "m.safetensors", metadata={"mean": "[0.5, 0.5, 0.5]"})
    assert load_checkpoint(tmp_path / "m.safetensors").metadata == {"mean": "[0.5, 0.5, 0.5]"}


def test_values_that_are_no_tensors_are_set_aside(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save({**TENSORS, "epoch": 3}, tmp_path / "c.pt", "zip"))
    assert_same_tensors(checkpoint.tensors)
    assert checkpoint.notes == ("set aside, not tensors: epoch",)


def global_state() -> tuple[object, ...]:
    return (
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
        random.getstate(),
        set(torch.serialization.get_safe_globals()),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        list(warnings.filters),
        sorted(sys.modules),
        sorted(os.environ.items()),
        os.getcwd(),
    )


@pytest.mark.parametrize("how", ["zip", "legacy", "safetensors", "npz", "refused", "broken"])
def test_loading_changes_no_global_state(tmp_path: Path, how: str) -> None:
    path = tmp_path / "c.pt"
    if how == "npz":
        np.savez(path, a=np.zeros(2))
        path = tmp_path / "c.pt.npz"
    else:
        content = TENSORS | ({"x": RunsCode("true")} if how == "refused" else {})
        save(content, path, how if how in ("legacy", "safetensors") else "zip")
    if how == "broken":
        path.write_bytes(path.read_bytes().replace(b"storage", b"stor_ge"))
    for expected in (None, "the same again, with everything imported"):
        before = global_state() if expected else None
        try:
            load_checkpoint(path)
        except CheckpointError:
            assert how in ("refused", "broken")
        assert before is None or before == global_state()


def test_a_missing_file_is_named_with_its_full_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"No such checkpoint file: {tmp_path}/gone.pth"):
        load_checkpoint(tmp_path / "gone.pth")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a directory, expected a checkpoint file"):
        load_checkpoint(tmp_path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.pth").touch()
    with pytest.raises(CheckpointError, match=r"e\.pth is empty \(0 bytes\)"):
        load_checkpoint(tmp_path / "e.pth")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    save(TENSORS, tmp_path / "p.pth", "zip").chmod(0)
    with pytest.raises(CheckpointError, match=r"Cannot read .*Permission denied"):
        load_checkpoint(tmp_path / "p.pth")


@pytest.mark.parametrize("how", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.99])
def test_a_truncated_file_is_refused_with_its_size(tmp_path: Path, how: str, fraction: float) -> None:
    path = save({"w": torch.randn(100, 100, generator=torch.Generator())}, tmp_path / "t.pth", how)
    size = int(path.stat().st_size * fraction)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=rf"t\.pth is .*truncated or corrupt .*\({size:,} bytes\)"):
        load_checkpoint(path)


@pytest.mark.parametrize("size", range(1, 500, 23))
def test_the_first_bytes_of_a_legacy_file_are_refused(tmp_path: Path, size: int) -> None:
    path = save(TENSORS, tmp_path / "t.pth", "legacy")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"hello, world", b"\x89PNG\r\n\x1a\n" + b"\0" * 30, b"\0" * 100])
def test_other_files_are_not_checkpoints(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pth is not a checkpoint: it starts with"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_plain_pickle_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"a": [1, 2]}))
    with pytest.raises(CheckpointError, match="is not a checkpoint, or a truncated or corrupt one"):
        load_checkpoint(tmp_path / "x.pth")


def test_another_zip_archive_is_not_a_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("letter.txt", b"hello")
    with pytest.raises(CheckpointError, match=r"is a zip archive of letter\.txt"):
        load_checkpoint(tmp_path / "x.zip")


def test_a_torchscript_program_is_not_a_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/constants.pkl", b"")
        archive.writestr("x/data.pkl", b"")
    with pytest.raises(CheckpointError, match="is a TorchScript program, not a checkpoint"):
        load_checkpoint(tmp_path / "x.pt")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    save(TENSORS, tmp_path / "x.pt", "zip")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as whole,
        zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as z,
    ):
        for name in whole.namelist():
            z.writestr(name, whole.read(name))
    with pytest.raises(CheckpointError, match="is a compressed archive"):
        load_checkpoint(tmp_path / "y.pt")


class RunsCode:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> object:
        return os.system, (self.command,)


class Evaluates(RunsCode):
    def __reduce__(self) -> object:
        return eval, (f"__import__('os').system({self.command!r})",)


@pytest.mark.parametrize("how", ["zip", "legacy", "plain pickle", "protocol 4"])
def test_a_pickle_that_would_run_code_does_not_run_and_is_named(tmp_path: Path, how: str) -> None:
    victim = tmp_path / "victim"
    content = {"state_dict": TENSORS, "x": RunsCode(f"touch {victim}"), "y": Evaluates(f"touch {victim}")}
    path = tmp_path / "evil.pth"
    if how == "plain pickle":
        path.write_bytes(pickle.dumps({"x": content["x"], "y": content["y"]}))
    elif how == "protocol 4":
        torch.save(content, path, pickle_protocol=4)
    else:
        save(content, path, how)
    with pytest.raises(
        CheckpointError, match=r"objects beyond tensors: (__builtin__|builtins)\.eval, posix\.system\. .*nothing was"
    ):
        load_checkpoint(path)
    assert not victim.exists()


def test_a_pickle_that_hides_a_global_behind_the_memo_is_named(tmp_path: Path) -> None:
    # protocol 4: push and memoize "posix", "system"; drop both; recall them; STACK_GLOBAL
    code = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x9400h\x00h\x01\x93\x8c\x04true\x85R."
    (tmp_path / "evil.pth").write_bytes(code)
    with pytest.raises(CheckpointError, match=r"posix\.system"):
        load_checkpoint(tmp_path / "evil.pth")


def test_a_whole_pickled_model_is_refused_by_the_names_of_its_classes(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.*Save only the state_dict"):
        load_checkpoint(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"epoch": 3, "lr": 0.1}, r"holds no tensors: it holds 'epoch' \(int\), 'lr' \(float\)"),
        ({}, "holds no tensors: it holds an empty dictionary"),
        ([torch.zeros(1)], "holds no tensors by name: it holds a list"),
        (torch.zeros(2, 3), r"holds no tensors by name: it holds one tensor of shape \(2, 3\)"),
        ({"state_dict": {"lr": 1}}, r"holds no tensors: it holds 'state_dict' \(dict\)"),
    ],
)
def test_a_file_without_named_tensors_says_what_it_holds(tmp_path: Path, content: object, what: str) -> None:
    with pytest.raises(CheckpointError, match=what):
        load_checkpoint(save(content, tmp_path / "c.pt", "zip"))


def test_a_safetensors_file_without_tensors_is_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "n.safetensors")
    with pytest.raises(CheckpointError, match="holds no tensors: it is a safetensors file without entries"):
        load_checkpoint(tmp_path / "n.safetensors")


def test_two_networks_in_one_file_are_not_chosen_between(tmp_path: Path) -> None:
    content = {"state_dict": TENSORS, "model": TENSORS}
    with pytest.raises(CheckpointError, match=r"read in 2 ways.*c\.pt#state_dict, .*c\.pt#model; or ARCH@PATH"):
        load_checkpoint(save(content, tmp_path / "c.pt", "zip"))
    assert_same_tensors(load_checkpoint(tmp_path / "c.pt", network="model").tensors)


def test_a_file_that_contains_itself_ends_in_an_error(tmp_path: Path) -> None:
    content: dict[str, object] = {}
    content["model"] = content
    with pytest.raises(CheckpointError, match="holds no tensors"):
        load_checkpoint(save(content, tmp_path / "c.pt", "zip"))


def test_a_broken_pickle_inside_a_whole_zip_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(TENSORS, buffer)
    with zipfile.ZipFile(buffer) as whole, zipfile.ZipFile(tmp_path / "b.pt", "w") as broken:
        for name in whole.namelist():
            broken.writestr(name, whole.read(name)[:20] if name.endswith("data.pkl") else whole.read(name))
    with pytest.raises(CheckpointError, match="truncated or corrupt"):
        load_checkpoint(tmp_path / "b.pt")


@pytest.fixture
def foreign() -> Iterator[types.SimpleNamespace]:
    """Classes of a project that exists while files are written and no more when they are read."""
    module = types.ModuleType("foreign_project")
    classes = {
        name: type(name, bases, {"__module__": module.__name__, "__qualname__": name})
        for name, bases in {"SGD": (), "Config": (dict,), "History": (list,)}.items()
    }
    vars(module).update(classes)
    sys.modules[module.__name__] = module
    yield types.SimpleNamespace(**classes, forget=lambda: sys.modules.pop(module.__name__))
    sys.modules.pop(module.__name__, None)


@pytest.mark.parametrize("how", ["zip", "legacy"])
def test_classes_of_other_projects_become_placeholders(
    tmp_path: Path, foreign: types.SimpleNamespace, how: str
) -> None:
    optimizer = foreign.SGD()
    optimizer.lr = 0.1
    config = foreign.Config(depth=50, inner=foreign.Config(width=2))
    config.frozen = True
    content = {
        "model": TENSORS,
        "optimizer": optimizer,
        "scheduler": foreign.SGD,
        "config": config,
        "history": foreign.History([1, 2]),
        "torch_optimizer": torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1),
        "folder": Path("runs"),
        "when": datetime.datetime(2020, 1, 1),
        "counts": collections.defaultdict(list, a=[1]),
    }
    save(content, tmp_path / "c.pt", how)
    foreign.forget()
    checkpoint = load_checkpoint(tmp_path / "c.pt")
    assert_same_tensors(checkpoint.tensors)
    assert checkpoint.notes[0] == (
        "read from 'model'; set aside: optimizer, scheduler, config, history, torch_optimizer, folder, when, counts"
    )
    value = read_content(tmp_path / "c.pt").value
    assert isinstance(value, dict)
    assert all(isinstance(value[name], Placeholder) for name in ("optimizer", "torch_optimizer", "folder", "when"))
    assert value["scheduler"] is Placeholder
    assert dict(value["config"]) == {"depth": 50, "inner": {"width": 2}}  # what they were filled with stays
    assert (value["history"], dict(value["counts"])) == ([1, 2], {"a": [1]})
    assert "foreign_project" not in sys.modules


ARGUMENTS = argparse.Namespace(
    lr=0.1,
    widths=np.arange(6.0).reshape(2, 3).T,
    big_endian=np.arange(3, dtype=">i4"),
    names=np.array(["a", "bc"]),
    mixed=np.array([1, "x", None], dtype=object),
    best=np.float64(0.5),
    done=np.bool_(True),
    raw=b"\xff\x00abc",
    shape=torch.Size([1, 2]),
    device=torch.device("cuda:1"),
    huge=2**100,
    kinds={1, 2},
)


@pytest.mark.parametrize("how", ["zip", "legacy"])
@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])  # numpy 2.x, 1.x
def test_harmless_objects_are_read_as_they_are(tmp_path: Path, how: str, core: str) -> None:
    buffer = io.BytesIO()
    torch.save({"args": ARGUMENTS, "state_dict": TENSORS}, buffer, _use_new_zipfile_serialization=how == "zip")
    (tmp_path / "c.pt").write_bytes(renamed_in(buffer.getvalue(), core))
    value = read_content(tmp_path / "c.pt").value
    assert isinstance(value, dict) and isinstance(value["args"], argparse.Namespace)
    found = vars(value["args"])
    assert found.keys() == vars(ARGUMENTS).keys()
    for name, expected in vars(ARGUMENTS).items():
        same = np.array_equal if isinstance(expected, np.ndarray) else lambda a, b: type(a) is type(b) and a == b
        assert same(found[name], expected), name


def renamed_in(content: bytes, core: str) -> bytes:
    """The torch file with numpy's core called `core` in its pickles."""
    old, new = b"cnumpy._core.", f"c{core}.".encode()
    if not content.startswith(b"PK"):
        return content.replace(old, new)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(buffer, "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, archive.read(name).replace(old, new))
    return buffer.getvalue()


def test_files_of_the_first_versions_are_read(tmp_path: Path) -> None:
    # Python 2: texts as bytes; _rebuild_tensor of version 1; storages on a GPU; no batch counters.
    body = (
        b"\x80\x02ccollections\nOrderedDict\n]]U\x01wactorch._utils\n_rebuild_tensor\n((U\x07storagectorch\n"
        b"FloatStorage\nU\x0212U\x06cuda:0K\x04NtQK\x00K\x02K\x02\x86K\x02K\x01\x86tRaa\x85R."
    )
    head = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
    values = np.arange(4, dtype="<f4")
    (tmp_path / "old.pth").write_bytes(head + body + b"\x80\x02]U\x0212a." + np.int64(4).tobytes() + values.tobytes())
    assert_same_tensors(load_checkpoint(tmp_path / "old.pth").tensors, {"w": torch.arange(4.0).reshape(2, 2)})


@pytest.mark.parametrize("save_archive", [np.savez, np.savez_compressed])
def test_numpy_archives_are_read_whatever_their_name(tmp_path: Path, save_archive: object) -> None:
    arrays = {
        "Transformer/posembed_input/pos_embedding": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
        "head/kernel": np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)),
        "big": np.arange(3, dtype=">f8"),
        "step": np.array(7),
        "empty": np.zeros((0, 3), dtype=np.float32),
    }
    buffer = io.BytesIO()
    save_archive(buffer, **arrays)  # type: ignore[operator]
    (tmp_path / "weights.pth").write_bytes(buffer.getvalue())
    checkpoint = load_checkpoint(tmp_path / "weights.pth", formats={})
    assert_same_tensors(
        checkpoint.tensors,
        {name: torch.from_numpy(array.astype(array.dtype.newbyteorder("="))) for name, array in arrays.items()},
    )
    assert checkpoint.sha256 == hashlib.sha256(buffer.getvalue()).hexdigest()


def test_a_folder_is_read_with_its_config(tmp_path: Path) -> None:
    config = {
        "architecture": "resnet20",
        "num_classes": 10,
        "pretrained_cfg": {"mean": [0.5, 0.5, 0.5]},
        "license": "mit",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "README.md").touch()
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"license": "apache-2.0"})
    checkpoint = load_checkpoint(tmp_path)
    assert_same_tensors(checkpoint.tensors)
    assert checkpoint.path == tmp_path
    assert checkpoint.metadata == {
        "architecture": "resnet20",
        "num_classes": "10",
        "pretrained_cfg": '{"mean": [0.5, 0.5, 0.5]}',
        "license": "apache-2.0",  # what the weights say wins
    }
    lines = [
        f"{name} {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}\n"
        for name in ("config.json", "model.safetensors")
    ]
    assert checkpoint.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_of_several_files_in_a_folder_the_first_kind_is_read(tmp_path: Path) -> None:
    for value, name in ((3, "other.safetensors"), (2, "pytorch_model.bin"), (0, "model.safetensors")):
        tensors = {"w": torch.full((1,), float(value))}
        save(tensors, tmp_path / name, "safetensors" if name.endswith("safetensors") else "zip")
        assert_same_tensors(load_checkpoint(tmp_path).tensors, tensors)
        if name == "pytorch_model.bin":
            shards(tmp_path, {"x.safetensors": {"w": torch.ones(1)}})
            assert_same_tensors(load_checkpoint(tmp_path).tensors, {"w": torch.ones(1)})


def shards(folder: Path, files: dict[str, dict[str, torch.Tensor]], **places: str) -> None:
    """Shards with their index, in which `places` may lie."""
    for file, tensors in files.items():
        save_file(tensors, folder / file)
    weight_map = {name: file for file, tensors in files.items() for name in tensors} | places
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_the_shards_of_a_folder_are_put_together(tmp_path: Path, resnet20_tensors: dict[str, torch.Tensor]) -> None:
    halves = [dict(list(resnet20_tensors.items())[start::2]) for start in (0, 1)]
    shards(
        tmp_path,
        {f"model-{i}-of-2.safetensors": {n: t.clone() for n, t in half.items()} for i, half in enumerate(halves)},
    )
    assert_same_tensors(load_checkpoint(tmp_path).tensors, resnet20_tensors)
    assert load_backbone(str(tmp_path)).architecture == "resnet20"
    sha256 = load_checkpoint(tmp_path).sha256
    (tmp_path / "model-1-of-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=f"No such checkpoint file: {tmp_path}/model-1-of-2"):
        load_checkpoint(tmp_path)
    shards(tmp_path, {"model-1-of-2.safetensors": {n: t + 1 for n, t in halves[1].items()}})
    assert load_checkpoint(tmp_path).sha256 != sha256


def test_shards_must_hold_what_their_index_lists(tmp_path: Path) -> None:
    shards(tmp_path, {"a.safetensors": {"w": torch.zeros(1), "v": torch.zeros(1)}}, u="a.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors does not hold the tensors .* these differ: u\. "):
        load_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has no weight_map of names to files"):
        load_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[")
    with pytest.raises(CheckpointError, match="is a truncated or corrupt JSON file"):
        load_checkpoint(tmp_path)


def test_a_folder_without_a_checkpoint_says_what_it_holds(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file(TENSORS, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"is a directory, expected .* It holds a\.safetensors, b\.safetensors"):
        load_checkpoint(tmp_path)
