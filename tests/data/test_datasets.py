from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from richrep.data.datasets import list_datasets, load_dataset, load_split, part_of
from richrep.data.registry import REGISTRY
from richrep.data.sources import SOURCES
from richrep.errors import AddressError, DatasetError

Tree = Callable[..., Path]


def test_every_registered_name_and_every_source_is_listed_with_one_line() -> None:
    assert list(list_datasets()) == [*REGISTRY, "folder:PATH", "parquet:PATH", "csv:FILE", "hf:NAME"]
    assert all(line and "\n" not in line and len(line) < 90 for line in list_datasets().values())


@pytest.mark.parametrize(
    ("address", "guess"),
    [
        ("digit", "'digits'"),
        ("cifar-11", "'cifar10' or 'cifar100'"),
        ("oxford-pet-s2", "'oxford_pets'"),
        ("parqet:x", "'parquet'"),
        ("fodler:x", "'folder'"),
    ],
)
def test_an_unknown_address_gets_a_guess(address: str, guess: str) -> None:
    name = address.partition(":")[0]
    with pytest.raises(AddressError, match=rf"Unknown dataset '{name}'\. Did you mean {guess}\? Known: birdsnap,"):
        load_dataset(address)


def test_an_empty_address_is_unknown() -> None:
    with pytest.raises(AddressError, match=r"Unknown dataset ''\. Known: birdsnap"):
        load_dataset("")


@pytest.mark.parametrize("address", ["~nobody-of-that-name/x", "x" * 5000, "a\0b"])
def test_odd_addresses_are_unknown_not_a_crash(address: str) -> None:
    with pytest.raises(AddressError, match="Unknown dataset"):
        load_dataset(address)
    for source in ("folder", "parquet", "csv"):
        with pytest.raises(DatasetError, match="does not exist"):
            load_dataset(f"{source}:{address}")


def test_a_bare_path_is_told_apart_from_a_name(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match=rf"is a path.*folder:{tmp_path} or parquet:{tmp_path}"):
        load_dataset(str(tmp_path))


def test_a_path_where_none_belongs_and_none_where_one_belongs() -> None:
    with pytest.raises(AddressError, match=r"'digits:x' takes nothing after its name. Write 'digits'"):
        load_dataset("digits:x")
    for address, argument in (("folder", "PATH"), ("folder:", "PATH"), ("csv", "FILE"), ("hf:", "NAME")):
        with pytest.raises(AddressError, match=rf"'{address}' lacks .* Write {address.strip(':')}:{argument}"):
            load_dataset(address)


def test_an_unknown_part_gets_a_guess() -> None:
    with pytest.raises(ValueError, match=r"Unknown part 'trianval'. Did you mean 'trainval'"):
        load_split("digits", "trianval")
    with pytest.raises(ValueError, match="Unknown part 'dev'"):
        part_of(load_dataset("digits"), "dev")


def test_val_is_an_error_where_none_is_stored() -> None:
    with pytest.raises(DatasetError, match=r"digits stores no val part. Probing carves one .*carve_val"):
        load_split("digits", "val")


def test_trainval_without_a_stored_val_is_train() -> None:
    train, trainval = load_split("digits", "train"), load_split("digits", "trainval")
    assert trainval.part == "trainval"
    assert trainval.fingerprint == train.fingerprint


def test_trainval_is_train_followed_by_the_stored_val(make_tree: Tree, pixel: Callable[[Image.Image], int]) -> None:
    root = make_tree({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 2, "test/a": 1})
    parts = {part: load_split(f"folder:{root}", part) for part in ("train", "val", "trainval", "test")}
    trainval = parts["trainval"]
    assert trainval.labels.tolist() == [0, 1, 0, 1, 0, 1, 1]  # 4 of train, 3 of val
    values = [pixel(trainval.load_image(row)) for row in range(7)]
    assert values == [
        pixel(parts[part].load_image(row)) for part in ("train", "val") for row in range(len(parts[part]))
    ]
    assert trainval.note == "train followed by the stored val"
    assert len({split.fingerprint for split in parts.values()}) == 4


def test_the_address_is_kept_as_typed(make_tree: Tree) -> None:
    address = f"folder:{make_tree({'a': 3, 'b': 3})}/"
    assert load_dataset(address).address == address


def test_data_root_may_be_text_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DatasetError, match=rf"{tmp_path}/sets/cifar-10-batches-py does not exist"):
        load_dataset("cifar10", data_root="~/sets")


def test_listing_data_sets_imports_no_framework() -> None:
    code = (
        "import sys; from richrep.data.datasets import list_datasets; list_datasets(); "
        "print([m for m in ('torch', 'torchvision', 'sklearn', 'pyarrow') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.fixture
def addresses(make_tree: Tree, write_parquet: Callable[..., Path], tmp_path: Path) -> dict[str, str]:
    write_parquet(tmp_path / "tables" / "train.parquet", ["a", "b"] * 10)
    write_parquet(tmp_path / "tables" / "test.parquet", ["b", "a"], start=50)
    lines = [f"{i:02d}.png,{'ab'[i % 2]}" for i in range(20)]
    for i in range(20):
        Image.new("L", (4, 4), 100 + i).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    return {
        "digits": "digits",
        "csv": f"csv:{tmp_path / 'list.csv'}",
        "folder": f"folder:{make_tree({'a': 10, 'b': 10})}",
        "parquet": f"parquet:{tmp_path / 'tables'}",
    }


@pytest.mark.parametrize("source", ["digits", "folder", "parquet", "csv"])
def test_contract_of_every_source(source: str, addresses: dict[str, str]) -> None:
    dataset, again = load_dataset(addresses[source]), load_dataset(addresses[source])
    assert dataset.address == addresses[source]
    for split, other in ((dataset.train, again.train), (dataset.test, again.test)):
        assert split.positions.dtype == split.labels.dtype == np.int64
        assert split.class_names == dataset.train.class_names and split.dataset == dataset.name
        assert split.fingerprint == other.fingerprint and len(split.fingerprint) == 64
        images = [split.load_image(row) for row in range(len(split))]
        assert all(image.mode == "RGB" for image in images)
        assert len({split.image_name(row) for row in range(len(split))}) == len(split)
        assert set(split.labels) == set(range(split.num_classes))
    assert dataset.train.fingerprint != dataset.test.fingerprint


def test_the_contract_covers_every_source() -> None:
    assert set(SOURCES) == {"folder", "parquet", "csv", "hf"}  # test_sources_hugging_face.py writes a cache of its own


def test_a_data_root_that_is_no_path_is_an_error_not_a_crash() -> None:
    for root in ("~nosuch", "x" * 300, "a\0b"):
        for name in ("cifar10", "flowers102", "imagenet1k"):
            with pytest.raises(DatasetError, match="is not there"):
                load_dataset(name, data_root=root)


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may read everything, so it becomes nobody for a while; others are left as they are."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="needs the permissions of POSIX")
def test_no_permission_is_said_and_is_not_absence(make_tree: Tree) -> None:
    closed = make_tree({"a": 3, "b": 3}, name="closed")
    addresses = [f"folder:{closed}/a", f"parquet:{closed}/x", f"csv:{closed}/list.csv", "cifar10", "imagenet_a"]
    for address in addresses:  # the modules are imported while they can be read
        with pytest.raises(DatasetError):
            load_dataset(address, data_root=closed)
    closed.chmod(0)
    try:
        for address in addresses:
            with without_rights(), pytest.raises(DatasetError, match="cannot be read: no permission"):
                load_split(address, "test", data_root=closed)
    finally:
        closed.chmod(0o700)


def test_a_csv_file_without_its_source_is_told_apart_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "list.csv").touch()
    with pytest.raises(AddressError, match=rf"is a path\. Say what it holds: csv:{tmp_path}/list\.csv\."):
        load_dataset(str(tmp_path / "list.csv"))
