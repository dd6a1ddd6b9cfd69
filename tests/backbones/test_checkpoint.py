"""Reading checkpoint files: formats, containers, prefixes, and everything that can be wrong with a file."""

from __future__ import annotations

import collections
import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from richrep.backbones.checkpoint import load_checkpoint
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


def test_loading_leaves_the_random_generator_alone(tmp_path: Path) -> None:
    path = save(TENSORS, tmp_path / "c.pt", "zip")
    before = torch.get_rng_state()
    load_checkpoint(path)
    assert torch.equal(before, torch.get_rng_state())


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
    np.savez(tmp_path / "x.npz", weight=np.zeros(3))
    with pytest.raises(CheckpointError, match=r"is a zip archive of weight\.npy"):
        load_checkpoint(tmp_path / "x.npz")


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
    with pytest.raises(CheckpointError, match="holds several networks, under 'state_dict' and 'model'"):
        load_checkpoint(save(content, tmp_path / "c.pt", "zip"))


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
