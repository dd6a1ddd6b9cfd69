from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from huggingface_hub import constants
from PIL import Image

from richrep.data.datasets import load_dataset
from richrep.errors import AddressError, DatasetError

Write = Callable[..., Path]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of Hugging Face's client of its own; the network is forbidden."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RICHREP_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture
def cached(cache: Path, write_parquet: Write) -> Callable[..., Path]:
    """cached({"data/train-00000-of-00001.parquet": [0, 1]}): the files as the client lays them out."""

    def make(files: dict[str, Any], *, repo: str = "zoo--pets", revision: str = "main", **options: Any) -> Path:
        commit = COMMIT[::-1] if revision != "main" else COMMIT
        folder = cache / f"datasets--{repo}"
        ref = folder / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / "README.md").write_text("# pets\n")
        for start, (name, labels) in enumerate(files.items()):
            write_parquet(snapshot / name, labels, start=50 * start, **options)
        return snapshot

    return make


TWO = {"data/train-00000-of-00001.parquet": [0, 1, 1], "data/test-00000-of-00001.parquet": [1, 0]}


def test_the_files_in_the_cache_are_read(cached: Callable[..., Path], pixel: Callable[[Image.Image], int]) -> None:
    cached(TWO, class_names=["cat", "dog"])
    dataset = load_dataset("hf:zoo/pets")
    assert (dataset.name, dataset.address, dataset.train.class_names) == ("pets", "hf:zoo/pets", ("cat", "dog"))
    assert dataset.train.labels.tolist() == [0, 1, 1] and dataset.test.labels.tolist() == [1, 0]
    assert pixel(dataset.test.load_image(1)) == 51


@pytest.mark.parametrize(
    "columns", [{"image": "img", "label": "fine_label"}, {"image": "img"}, {"label": "labels"}, {}]
)
def test_the_usual_names_of_columns_are_known(cached: Callable[..., Path], columns: dict[str, str]) -> None:
    cached(TWO, columns=columns)
    train = load_dataset("hf:zoo/pets").train
    assert train.labels.tolist() == [0, 1, 1] and train.load_image(0).mode == "RGB"


def test_other_columns_are_named(cached: Callable[..., Path]) -> None:
    cached(TWO, columns={"image": "picture"})
    with pytest.raises(DatasetError, match=r"hf:zoo/pets has the columns 'picture', 'label'; wanted are image or img"):
        load_dataset("hf:zoo/pets")


def test_files_that_the_hub_converted_are_found(cached: Callable[..., Path]) -> None:
    cached({})
    files = {"default/train/0000.parquet": [0, 1], "default/train/0001.parquet": [1], "default/test/0000.parquet": [0]}
    cached(files, revision="refs/convert/parquet")
    assert load_dataset("hf:zoo/pets").train.labels.tolist() == [0, 1, 1]


def test_a_configuration_is_chosen_by_name(cached: Callable[..., Path]) -> None:
    cached(
        {
            f"{config}/{part}.parquet": labels
            for config, labels in (("small", [0, 1]), ("big", [0, 1, 1]))
            for part in ("train", "test")
        }
    )
    with pytest.raises(DatasetError, match=r"has the configurations 'big', 'small'\. Choose one: hf:zoo/pets:big"):
        load_dataset("hf:zoo/pets")
    assert len(load_dataset("hf:zoo/pets:small").train) == 2
    with pytest.raises(DatasetError, match="has the configurations 'big', 'small'"):
        load_dataset("hf:zoo/pets:huge")


def test_validation_is_scored_only_when_asked_for(cached: Callable[..., Path]) -> None:
    files = {"data/train.parquet": [0, 1, 1], "data/validation.parquet": [1, 0, 0, 1]}
    cached(files)
    with pytest.raises(DatasetError, match=r"no test part\. .* write hf:zoo/pets\?test=validation\."):
        load_dataset("hf:zoo/pets")
    dataset = load_dataset("hf:zoo/pets?test=validation")
    assert (len(dataset.test), dataset.val, dataset.test.part) == (4, None, "test")
    assert dataset.test.note == "the part 'validation' of the repository"
    for wrong in ("train", "test", "dev"):
        with pytest.raises(DatasetError, match=rf"stores no part '{wrong}' to test on; it has 'train', 'val'"):
            load_dataset(f"hf:zoo/pets?test={wrong}")


def test_a_test_part_without_labels_gives_way_to_validation(cached: Callable[..., Path]) -> None:
    parts = {"data/train.parquet": [0, 1], "data/validation.parquet": [1, 0], "data/test.parquet": [-1, -1]}
    cached(parts, class_names=["cat", "dog"])
    with pytest.raises(DatasetError, match=r"test\.parquet row 0: the label is -1.*hf:NAME\?test=validation"):
        load_dataset("hf:zoo/pets")
    assert load_dataset("hf:zoo/pets?test=validation").test.labels.tolist() == [1, 0]


def test_a_revision_is_read(cached: Callable[..., Path]) -> None:
    cached({"train.parquet": [0, 1, 0, 1, 0, 1]}, revision="v2")
    assert len(load_dataset("hf:zoo/pets@v2").train) + len(load_dataset("hf:zoo/pets@v2").test) == 6


def test_a_missing_shard_is_an_error(cached: Callable[..., Path]) -> None:
    cached({"data/train-00000-of-00002.parquet": [0, 1], "data/test.parquet": [0]})
    with pytest.raises(DatasetError, match=r"there are 1 files of train, expected 2: 'data/train-00000-of-00002"):
        load_dataset("hf:zoo/pets")


def test_offline_and_not_cached_is_an_error_that_says_so(cached: Callable[..., Path]) -> None:
    for _ in range(2):
        with pytest.raises(
            DatasetError,
            match=r"hf:zoo/pets: no Parquet file is in the Hugging Face cache, and the network is forbidden",
        ):
            load_dataset("hf:zoo/pets")
        cached({})  # the second time something of it is cached, but no Parquet file


@pytest.mark.parametrize("rest", ["a/b/c", "zoo/pets?part=test", "../x", "zoo/", "a b"])
def test_an_address_of_another_form_is_an_error(rest: str) -> None:
    with pytest.raises((AddressError, DatasetError), match=r"hf:"):
        load_dataset(f"hf:{rest}")


class _Hub(BaseHTTPRequestHandler):
    """The three requests that the client makes: what is the commit, which files, and each file."""

    def __init__(self, *arguments: Any, folder: Path) -> None:
        self._folder = folder
        super().__init__(*arguments)

    def log_message(self, *_: Any) -> None:
        """Nothing: pytest's output is not the hub's log."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        start = "/api/datasets/zoo/pets"
        names = [file.relative_to(self._folder).as_posix() for file in sorted(self._folder.rglob("*.parquet"))]
        if path.startswith(f"{start}/tree/"):
            files = [
                {"type": "file", "path": n, "size": (self._folder / n).stat().st_size, "oid": f"{i:040x}"}
                for i, n in enumerate(names)
            ]
            self._answer(json.dumps(files).encode())
        elif path.startswith(start):
            siblings = [{"rfilename": name} for name in names]
            content = {"id": "zoo/pets", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
            self._answer(json.dumps(content).encode())
        elif path.startswith(f"/datasets/zoo/pets/resolve/{COMMIT}/"):
            name = path.removeprefix(f"/datasets/zoo/pets/resolve/{COMMIT}/")
            etag = f'"{names.index(name):040x}"'
            self._answer((self._folder / name).read_bytes(), {"ETag": etag, "X-Repo-Commit": COMMIT})
        else:
            self._answer(b"{}", {"X-Error-Code": "RepoNotFound"}, status=404)

    def _answer(self, body: bytes, headers: dict[str, str] | None = None, *, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub on this machine with the repository zoo/pets; gives the folder of its files."""
    folder = tmp_path / "hub"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Hub, folder=folder)) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setenv("HF_ENDPOINT", address)
        for name in ("RICHREP_OFFLINE", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder
        server.shutdown()


def test_files_are_fetched_once_and_then_read_offline(
    hub: Path, write_parquet: Write, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("small/train", "small/test", "big/train", "big/test"):
        write_parquet(hub / f"{name}.parquet", [0, 1])
    online = load_dataset("hf:zoo/pets:small")
    monkeypatch.setenv("RICHREP_OFFLINE", "1")
    offline = load_dataset("hf:zoo/pets:small")
    assert online.train.fingerprint == offline.train.fingerprint
    assert sorted(path.name for path in cache.rglob("snapshots/*/*")) == ["small"]  # big was not fetched
    with pytest.raises(DatasetError, match="has the configurations 'small'"):
        load_dataset("hf:zoo/pets:big")


def test_an_unknown_repository_is_an_error_that_says_what_to_check(hub: Path) -> None:
    with pytest.raises(DatasetError, match=r"hf:zoo/birds cannot be fetched \(.*Check the name and the network; for a"):
        load_dataset("hf:zoo/birds")
