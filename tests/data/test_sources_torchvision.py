from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from richrep.data.datasets import load_dataset
from richrep.data.registry import REGISTRY
from richrep.data.registry.entry import NamedSplit
from richrep.errors import DatasetError

PER_FILE = 4  # images in every batch file of these tests; 10,000 in the real ones
SETS = {"cifar10": (CIFAR10, "labels", 10), "cifar100": (CIFAR100, "fine_labels", 100)}


def write(path: Path, content: dict[str, Any]) -> str:
    """Pickles `content` as the official files are (protocol 2), returns its MD5."""
    data = pickle.dumps(content, protocol=2)
    path.write_bytes(data)
    return hashlib.md5(data).hexdigest()


def write_official_layout(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Tiny batches in the official layout, their MD5 in the place of the official ones; returns pixels (N, 3072)."""
    torchvision_set, key, num_classes = SETS[name]
    folder = root / torchvision_set.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, entries = [], []
    for number, (file, _) in enumerate([*torchvision_set.train_list, *torchvision_set.test_list]):
        rows.append(rng.integers(0, 256, size=(PER_FILE, 3072), dtype=np.uint8))
        labels = [(number + i) % num_classes for i in range(PER_FILE)]
        entries.append([file, write(folder / file, {"data": rows[-1], key: labels, "batch_label": "x"})])
    split_at = len(torchvision_set.train_list)
    names = [f"class {label}" for label in range(num_classes)]
    meta = torchvision_set.meta
    meta_md5 = write(folder / meta["filename"], {meta["key"]: names})
    monkeypatch.setattr(torchvision_set, "train_list", entries[:split_at])
    monkeypatch.setattr(torchvision_set, "test_list", entries[split_at:])
    monkeypatch.setattr(torchvision_set, "meta", {**meta, "md5": meta_md5})
    sizes = {"train": split_at * PER_FILE, "test": PER_FILE}
    entry = replace(REGISTRY[name], splits={"official": NamedSplit(sizes)})
    monkeypatch.setitem(REGISTRY, name, entry)
    return np.concatenate(rows)


@pytest.mark.parametrize(("name", "num_train"), [("cifar10", 5 * PER_FILE), ("cifar100", PER_FILE)])
def test_the_official_files_are_read(
    name: str, num_train: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_official_layout(tmp_path, name, monkeypatch)
    dataset = load_dataset(name, data_root=tmp_path)
    assert (len(dataset.train), len(dataset.test), dataset.val) == (num_train, PER_FILE, None)
    assert dataset.train.class_names == tuple(f"class {label}" for label in range(SETS[name][2]))
    assert dataset.train.labels[:4].tolist() == [0, 1, 2, 3]
    # a row holds 1024 red, 1024 green, 1024 blue values, each row by row: pixel (y=1, x=2) is number 34
    assert np.asarray(dataset.train.load_image(3))[1, 2].tolist() == rows[3][[34, 1024 + 34, 2048 + 34]].tolist()
    assert np.asarray(dataset.test.load_image(0))[0, 0, 0] == rows[num_train][0]
    assert dataset.test.image_name(1) == f"{name} test image 1"


@pytest.mark.parametrize("name", SETS)
def test_absent_files_are_not_downloaded_and_the_message_says_how_to_fetch_them(name: str, tmp_path: Path) -> None:
    torchvision_set = SETS[name][0]
    with pytest.raises(DatasetError) as caught:
        load_dataset(name, data_root=tmp_path)
    message = str(caught.value)
    assert f"{tmp_path / torchvision_set.base_folder} does not exist" in message
    assert f"Fetch it with: richrep datasets download {name} --data-root {tmp_path} ." in message
    assert torchvision_set.url in message and "Or give another --data-root" in message
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_files_are_all_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_official_layout(tmp_path, "cifar10", monkeypatch)
    folder = tmp_path / "cifar-10-batches-py"
    (folder / "data_batch_2").unlink()
    (folder / "batches.meta").unlink()
    with (folder / "test_batch").open("ab") as file:
        file.write(b"x")
    with pytest.raises(
        DatasetError,
        match=r"not complete: data_batch_2 \(missing\), test_batch \(damaged\), batches.meta \(missing\)\. .*download ",
    ):
        load_dataset("cifar10", data_root=tmp_path)


def test_a_batch_that_is_not_the_official_one_is_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    write_official_layout(tmp_path, "cifar10", monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(DatasetError, match=r"data_batch_1 \(damaged\)"):
        load_dataset("cifar10", data_root=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_the_default_data_root_is_under_richrep_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RICHREP_HOME", str(tmp_path))
    write_official_layout(tmp_path / "data", "cifar10", monkeypatch)
    assert len(load_dataset("cifar10").test) == PER_FILE


def test_another_number_of_images_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_official_layout(tmp_path, "cifar10", monkeypatch)
    monkeypatch.undo()
    with pytest.raises(DatasetError, match=r"data_batch_1 \(damaged\)"):  # by MD5, before anything is counted
        load_dataset("cifar10", data_root=tmp_path)
    write_official_layout(tmp_path / "two", "cifar10", monkeypatch)
    monkeypatch.setitem(REGISTRY, "cifar10", replace(REGISTRY["cifar10"], num_classes=11))
    with pytest.raises(DatasetError, match=r"train has 10 classes, expected 11; test has 10 classes, expected 11\."):
        load_dataset("cifar10", data_root=tmp_path / "two")
