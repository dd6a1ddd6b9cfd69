"""Downloads through torchvision's own code, from a web server on this machine; only addresses, MD5 and sizes differ."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torchvision.datasets import DTD, FGVCAircraft

from richrep.data import download as download_module
from richrep.data.datasets import find_copy, load_dataset
from richrep.data.download import download
from richrep.data.registry import REGISTRY
from richrep.data.registry.entry import NamedSplit
from richrep.data.sources.registered import RegisteredCopy
from richrep.errors import DatasetError


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error."""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a web server, and the folder that it serves."""
    folder = tmp_path / "host"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RICHREP_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    return buffer.getvalue()


def write_archive(path: Path, files: dict[str, bytes]) -> str:
    """A .tar.gz of `files`; returns its MD5."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def dtd(host: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RegisteredCopy:
    """DTD of two classes with one image in every part, served in its official archive."""
    address, folder = host
    files = {}
    for i, part in enumerate(("train", "val", "test")):
        images = [f"{name}/{name}_{i}.jpg" for name in ("banded", "dotted")]
        files |= {f"dtd/images/{image}": png() for image in images}
        files[f"dtd/labels/{part}1.txt"] = "\n".join(images).encode()
    md5 = write_archive(folder / "dtd-r1.0.1.tar.gz", files)
    monkeypatch.setattr(DTD, "_URL", f"{address}/dtd-r1.0.1.tar.gz")
    monkeypatch.setattr(DTD, "_MD5", md5)
    sizes = NamedSplit({"train": 2, "val": 2, "test": 2})
    monkeypatch.setitem(REGISTRY, "dtd", replace(REGISTRY["dtd"], num_classes=2, splits={"split1": sizes}))
    copy = find_copy("dtd", data_root=tmp_path / "sets")
    assert copy is not None
    return copy


def test_what_was_downloaded_is_loaded_and_nothing_else_is_left(dtd: RegisteredCopy) -> None:
    assert download(dtd) == dtd.data_root / "dtd"
    dataset = load_dataset("dtd", data_root=dtd.data_root)
    assert (len(dataset.train), len(dataset.test)) == (2, 2) and dataset.train.load_image(0).mode == "RGB"
    assert [path.name for path in dtd.data_root.iterdir()] == ["dtd"]
    assert [path.name for path in (dtd.data_root / "dtd").iterdir()] == ["dtd"]  # the archive is not kept
    with pytest.raises(DatasetError, match=r"dtd is there already, in .*sets/dtd\. See: richrep datasets check dtd"):
        download(dtd)


def test_a_damaged_archive_is_refused_by_its_md5_and_nothing_is_kept(
    dtd: RegisteredCopy, host: tuple[str, Path]
) -> None:
    with (host[1] / "dtd-r1.0.1.tar.gz").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DatasetError, match=r"dtd cannot be downloaded \(RuntimeError: File not found or corrupted\)"):
        download(dtd)
    assert list(dtd.data_root.iterdir()) == []


def test_a_file_that_is_gone_is_an_error_that_says_what_to_do(dtd: RegisteredCopy, host: tuple[str, Path]) -> None:
    (host[1] / "dtd-r1.0.1.tar.gz").unlink()
    with pytest.raises(DatasetError, match=r"\(HTTPError: HTTP Error 404.*\).*get it by hand\. Unpack .*/sets/dtd\."):
        download(dtd)
    assert list(dtd.data_root.iterdir()) == []


def test_another_number_of_images_is_an_error_and_nothing_is_kept(
    dtd: RegisteredCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = {"split1": NamedSplit({"train": 2, "val": 2, "test": 3})}
    with pytest.raises(DatasetError, match=r"dtd was downloaded, but .*: test has 2 images, expected 3\. Nothing is"):
        download(replace(dtd, entry=replace(dtd.entry, splits=splits)))
    assert list(dtd.data_root.iterdir()) == []


def test_a_half_copied_folder_is_left_alone(dtd: RegisteredCopy) -> None:
    (dtd.data_root / "dtd" / "dtd" / "images").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"sets/dtd exists, but lacks '.*dtd/labels'\. Move it away"):
        download(dtd)
    assert list((dtd.data_root / "dtd" / "dtd").iterdir()) == [dtd.data_root / "dtd" / "dtd" / "images"]


def test_of_two_downloads_at_once_the_first_is_kept(dtd: RegisteredCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_is_faster(copy: RegisteredCopy, root: Path) -> None:
        for need in copy.needs:
            need.mkdir(parents=True)

    monkeypatch.setattr(download_module, "_check", other_is_faster)
    with pytest.raises(DatasetError, match="dtd is there already"):
        download(dtd)
    assert [path.name for path in dtd.data_root.iterdir()] == ["dtd"]
    assert list((dtd.data_root / "dtd" / "dtd" / "images").iterdir()) == []  # the other's


def test_an_interrupted_download_leaves_nothing(dtd: RegisteredCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(download_module, "_check", interrupt)  # all is unpacked by then
    with pytest.raises(KeyboardInterrupt):
        download(dtd)
    assert list(dtd.data_root.iterdir()) == []


@pytest.mark.parametrize("variable", ["RICHREP_OFFLINE", "HF_HUB_OFFLINE"])
def test_a_forbidden_network_is_not_touched(
    dtd: RegisteredCopy, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(DatasetError, match=r"dtd cannot be downloaded: RICHREP_OFFLINE .* forbids the network"):
        download(dtd)
    assert not dtd.data_root.exists()


@pytest.mark.parametrize("root", ["a\0b", "x" * 300, "file/below"])
def test_a_data_root_that_cannot_be_made_is_named(dtd: RegisteredCopy, root: str) -> None:
    (dtd.data_root.parent / "file").touch()
    with pytest.raises(DatasetError, match=r"cannot be written: .*\. Give another --data-root"):
        download(replace(dtd, data_root=dtd.data_root.parent / root))


def test_the_md5_of_aircraft_is_checked_too(
    host: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = host
    files = {"variants.txt": b"707\nA380\n"}
    for i, part in enumerate(("train", "val", "test", "trainval")):
        files |= {f"images/{i}{label}.jpg": png() for label in range(2)}
        files[f"images_variant_{part}.txt"] = f"{i}0 707\n{i}1 A380\n".encode()
    md5 = write_archive(
        folder / "fgvc-aircraft-2013b.tar.gz", {f"fgvc-aircraft-2013b/data/{name}": f for name, f in files.items()}
    )
    monkeypatch.setattr(FGVCAircraft, "_URL", f"{address}/fgvc-aircraft-2013b.tar.gz")
    sizes = {"official": NamedSplit({"train": 2, "val": 2, "test": 2})}
    monkeypatch.setitem(REGISTRY, "fgvc_aircraft", replace(REGISTRY["fgvc_aircraft"], num_classes=2, splits=sizes))
    copy = find_copy("aircraft", data_root=tmp_path / "sets")
    assert copy is not None
    with pytest.raises(DatasetError, match="File not found or corrupted"):
        download(copy)
    assert os.listdir(copy.data_root) == []
    monkeypatch.setattr(download_module, "AIRCRAFT_MD5", md5)
    download(copy)
    assert len(load_dataset("aircraft", data_root=copy.data_root).test) == 2
    assert os.listdir(copy.data_root) == ["fgvc-aircraft-2013b"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("stanford_cars", "Its host is gone.*cars_train.*hf:tanganke/stanford_cars"),
        ("cub200", "Its old host is gone.*CUB_200_2011.tgz.*hf:bentrevett"),
        ("camelyon17", "may be gone.*metadata.csv and the folder patches.*hf:wltjr1007"),
        ("sun397", "Its host is gone.*Training_01.txt.*hf:tanganke/sun397"),
        ("imagenet1k", "after registration"),
        ("digits", "need not be downloaded.*bundled with scikit-learn"),
    ],
)
def test_what_torchvision_cannot_download_comes_with_what_to_put_where(name: str, words: str, tmp_path: Path) -> None:
    copy = find_copy(name, data_root=tmp_path / "sets")
    assert copy is not None
    with pytest.raises(DatasetError, match=words) as caught:
        download(copy)
    assert name == "digits" or str(tmp_path / "sets") in str(caught.value)
    assert not (tmp_path / "sets").exists()


def test_every_data_set_for_download_lies_in_one_folder() -> None:
    entries = [entry for entry in REGISTRY.values() if entry.torchvision]
    assert len(entries) == 10
    for entry in entries:
        needs = [need for info in entry.splits.values() for need in (*entry.needs, *info.needs)]
        assert len({Path(need).parts[0] for need in needs}) == 1
