"""`hf:OWNER/NAME`: the Parquet files of a Hugging Face data set, from its cache or the network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl

from richrep.data.sources.layout import check_parts, listing, make_dataset, part_named
from richrep.data.sources.parquet import read_parts
from richrep.data.sources.parquet_images import open_parquet
from richrep.data.split import Dataset
from richrep.errors import AddressError, DatasetError
from richrep.paths import is_offline

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
_CONVERTED = "refs/convert/parquet"  # where the hub puts Parquet files of data sets that are stored otherwise

# train-00000-of-00002.parquet, train.parquet; or 0000.parquet in a folder that names the part
_FILE_NAME = re.compile(r"([A-Za-z]+)(?:-\d+-of-(\d+)(?:-[0-9a-f]+)?)?\.parquet")
_NUMBERED = re.compile(r"\d+\.parquet")


@dataclass(frozen=True)
class _Address:
    """`OWNER/NAME[@REVISION][:CONFIG][?test=PART]`, taken apart; absent pieces are ""."""

    repo: str
    revision: str
    config: str
    test: str


def load(rest: str) -> Dataset:
    """The data set of the repository `rest`: OWNER/NAME, OWNER/NAME@REVISION, OWNER/NAME:CONFIG.

    Its Parquet files are used, or those that the hub made of it. Files: `PART-00000-of-00002.parquet`, alone, in `data`
    or in a folder named as the configuration; or `CONFIG/PART/0000.parquet`. Images are in the column image or img,
    labels in label, labels or fine_label. Otherwise as `parquet:`.

    A repository without a test part needs `?test=validation` at the end: that part is then scored, and never selected
    on. `$RICHREP_OFFLINE` and `$HF_HUB_OFFLINE` forbid the network; then only the cache is read.

    Raises:
        AddressError: the address is not of that form.
        DatasetError: nothing can be fetched, or files, columns or labels do not fit.
    """
    address = _parse(rest)
    folder, names = _fetch(address)
    files = {part: [folder / name for name in of_part] for part, of_part in names.items()}
    where = f"hf:{rest}"
    if address.test:
        files = _take_as_test(files, address)
    _check_stored_parts(files, where)
    first = next(iter(files.values()))[0]
    parts = read_parts(
        files, name=address.repo.rpartition("/")[2], where=where, columns=_find_columns(first, where=where)
    )
    if address.test:
        parts["test"] = replace(parts["test"], note=f"the part {address.test!r} of the repository")
    return make_dataset(parts, address=where)


def _parse(rest: str) -> _Address:
    body, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    body, _, config = body.partition(":")
    repo, _, revision = body.partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo) or set(options) - {"test"}:
        raise AddressError(
            f"Dataset 'hf:{rest}' is not of the form hf:OWNER/NAME, with @REVISION, :CONFIG and ?test=PART after it "
            "where needed. Example: hf:ethz/food101?test=validation"
        )
    return _Address(repo, revision, config, options.get("test", ""))


def _take_as_test(files: Mapping[str, list[Path]], address: _Address) -> dict[str, list[Path]]:
    """`files` with the part that the address names as test, in the place of a stored test part."""
    part = part_named(address.test)
    if part not in ("val", "test") or part not in files:
        raise DatasetError(
            f"hf:{address.repo} stores no part {address.test!r} to test on; it has {listing(sorted(files))}, of which "
            "train is trained on. Name another, or leave ?test= out."
        )
    return {**{name: paths for name, paths in files.items() if name not in (part, "test")}, "test": files[part]}


def _check_stored_parts(files: Mapping[str, object], where: str) -> None:
    if "val" in files and "test" not in files:
        raise DatasetError(
            f"{where} stores train and validation but no test part. To score on validation, and select on a part of "
            f"train, write {where}?test=validation."
        )
    check_parts(files, where=where)


def _find_columns(path: Path, *, where: str) -> tuple[str, str]:
    """The image column and the label column of a Parquet file."""
    with open_parquet(path) as parquet:
        names = parquet.schema_arrow.names
    image = next((name for name in IMAGE_COLUMNS if name in names), None)
    label = next((name for name in LABEL_COLUMNS if name in names), None)
    if image is None or label is None:
        raise DatasetError(
            f"{where} has the columns {listing(names)}; wanted are {' or '.join(IMAGE_COLUMNS)} and "
            f"{' or '.join(LABEL_COLUMNS)}. Fetch it, rename them, and use parquet:PATH."
        )
    return image, label


def _fetch(address: _Address) -> tuple[Path, dict[str, list[str]]]:
    """The local folder of the repository's Parquet files, and their names in it by part."""
    for revision in [address.revision] if address.revision else ["main", _CONVERTED]:
        names = _list_files(address.repo, revision)
        found = [name for name in names if name.endswith(".parquet")]
        if found:
            chosen = _choose(found, address)
            wanted = [name for of_part in chosen.values() for name in of_part]
            return _snapshot(address.repo, revision, wanted), chosen
    state = "in the Hugging Face cache, and the network is forbidden" if is_offline() else "there, or made by the hub"
    raise DatasetError(
        f"hf:{address.repo}: no Parquet file is {state}. "
        + ("Unset RICHREP_OFFLINE and HF_HUB_OFFLINE once to fetch it" if is_offline() else "Convert it to Parquet")
        + ", or fetch it elsewhere and use parquet:PATH."
    )


def _list_files(repo: str, revision: str) -> list[str]:
    """All files of the repository, at the hub or, offline, in the cache; [] where there is no such revision."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

    try:
        if not is_offline():
            return HfApi().list_repo_files(repo, repo_type="dataset", revision=revision)
        cached = snapshot_download(
            repo, repo_type="dataset", revision=revision, local_files_only=True, allow_patterns=[]
        )
        folder = Path(cached)
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")]
    except (RevisionNotFoundError, LocalEntryNotFoundError):
        return []
    except Exception as error:  # the client raises its own errors, those of its transport and of the system
        raise _not_fetched(repo, error) from error


def _snapshot(repo: str, revision: str, names: list[str]) -> Path:
    """The folder that holds the files `names`, fetched where they are not in the cache; the client checks them."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=names, local_files_only=is_offline()
        )
    except Exception as error:  # as in `_list_files`
        raise _not_fetched(repo, error) from error
    return Path(folder)


def _not_fetched(repo: str, error: Exception) -> DatasetError:
    lines = str(error).strip().splitlines()
    reason = lines[0].rstrip(".") if lines else type(error).__name__
    return DatasetError(
        f"hf:{repo} cannot be fetched ({type(error).__name__}: {reason}). Check the name and the network; for a gated "
        "data set accept its terms at huggingface.co and run `hf auth login`. RICHREP_OFFLINE=1 uses the cache."
    )


def _choose(names: Iterable[str], address: _Address) -> dict[str, list[str]]:
    """The files of every part, sorted, of the one configuration that the address means.

    Raises:
        DatasetError: several configurations and none chosen, an unknown one, or a shard that is missing.
    """
    configs: dict[str, dict[str, list[str]]] = {}
    for name in names:
        place = _place(name)
        if place is not None:
            config, part = place
            configs.setdefault(config, {}).setdefault(part, []).append(name)
    if address.config:
        chosen = configs.get(address.config)
    else:
        chosen = next(iter(configs.values())) if len(configs) == 1 else configs.get("") or configs.get("default")
    if chosen is None:
        if not configs:
            raise DatasetError(f"hf:{address.repo} has no Parquet files of train, validation or test. Convert it.")
        raise DatasetError(
            f"hf:{address.repo} has the configurations {listing(sorted(configs))}. Choose one: "
            f"hf:{address.repo}:{sorted(configs)[0]}"
        )
    for part, of_part in chosen.items():
        _check_whole(part, of_part, address)
    return {part: sorted(of_part) for part, of_part in chosen.items()}


def _place(name: str) -> tuple[str, str] | None:
    """Configuration and part of a file: 'data/train-0-of-1.parquet' -> ('', 'train'); None for other files."""
    path = PurePosixPath(name)
    folders = [folder for folder in path.parts[:-1] if folder != "data"]
    match = _FILE_NAME.fullmatch(path.name)
    if match:
        part = part_named(match[1])
    elif _NUMBERED.fullmatch(path.name) and folders:
        part = part_named(folders.pop())
    else:
        part = None
    return None if part is None else ("/".join(folders), part)


def _check_whole(part: str, names: list[str], address: _Address) -> None:
    """Raises DatasetError when a shard is missing, by the count that the file names state."""
    counts = {int(match[2] or 1) for name in names if (match := _FILE_NAME.fullmatch(PurePosixPath(name).name))}
    for count in counts:
        if len(counts) > 1 or len(names) != count:
            raise DatasetError(
                f"hf:{address.repo}: there are {len(names)} files of {part}, expected {count}: {listing(names)}. "
                "Fetch the rest, or use parquet:PATH."
            )
