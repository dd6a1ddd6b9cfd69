"""Downloads registered data sets through torchvision, which checks what it fetched; whole or not at all."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from richrep.data.sources.layout import absence, listing
from richrep.data.sources.registered import RegisteredCopy
from richrep.errors import DatasetError
from richrep.paths import is_offline

# The one archive whose MD5 torchvision does not check; as its makers and their mirrors state it.
AIRCRAFT_MD5 = "d4acdd33327262359767eeaa97a4f732"
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")


def download(copy: RegisteredCopy) -> Path:
    """Fetches the data set of `copy` into its data root; returns its folder there.

    It is fetched, unpacked and counted in a hidden folder of the data root, and renamed at the end: whatever fails, or
    is interrupted, leaves no half of a data set behind. The archives are not kept.

    Raises:
        DatasetError: torchvision cannot download it (the message says what to put where), it is already there, the
            network is forbidden or fails, what came is damaged, or the data root cannot be written.
    """
    folder = _check_possible(copy)
    try:
        copy.data_root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{copy.entry.name}-", dir=copy.data_root) as temporary:
            root = Path(temporary)
            _fetch(copy, root)
            _check(copy, root)
            _check_possible(copy)  # another process may have been faster
            os.rename(root / folder.name, folder)
    except DatasetError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise DatasetError(f"{copy.data_root} cannot be written: {reason}. Give another --data-root.") from error
    return folder


def _check_possible(copy: RegisteredCopy) -> Path:
    """The folder that will be made. Raises DatasetError where nothing can or need be downloaded."""
    entry = copy.entry
    if not entry.needs:
        raise DatasetError(f"{entry.name} need not be downloaded. {copy.how_to_get()}")
    if not entry.torchvision:
        raise DatasetError(
            f"{entry.name} cannot be downloaded: torchvision has no working address of all of it. {copy.how_to_get()}"
        )
    folder = copy.data_root / Path(entry.needs[0]).parts[0]
    missing = copy.missing()
    if not missing:
        raise DatasetError(f"{entry.name} is there already, in {folder}. See: richrep datasets check {entry.name}")
    if not absence(folder):
        raise DatasetError(
            f"{folder} exists, but lacks {listing(map(str, missing))}. Move it away to download {entry.name} anew, or "
            "put there what is missing."
        )
    if is_offline():
        raise DatasetError(
            f"{entry.name} cannot be downloaded: RICHREP_OFFLINE or HF_HUB_OFFLINE forbids the network. Unset it. "
            f"{copy.how_to_get()}"
        )
    return folder


def _fetch(copy: RegisteredCopy, root: Path) -> None:
    """Downloads and unpacks the data set of `copy` into `root`, and removes the archives."""
    import torchvision.datasets
    from torchvision.datasets.utils import download_url

    torchvision_set: Any = getattr(torchvision.datasets, copy.entry.torchvision)
    try:
        if copy.entry.torchvision == "FGVCAircraft":
            download_url(torchvision_set._URL, str(root), md5=AIRCRAFT_MD5)  # then found there, not fetched again
        torchvision_set(str(root), download=True)
    except Exception as error:  # of the network, of tar and zip, of the system; or "File not found or corrupted."
        reason = " ".join(str(error).split()).strip("<>.") or type(error).__name__
        raise DatasetError(
            f"{copy.entry.name} cannot be downloaded ({type(error).__name__}: {reason}); nothing is kept. Check the "
            f"network and the space on the disk, or get it by hand. {copy.by_hand()}"
        ) from error
    for archive in [*root.glob("*"), *root.glob("*/*")]:
        if archive.name.endswith(_ARCHIVES) and archive.is_file():
            archive.unlink()


def _check(copy: RegisteredCopy, root: Path) -> None:
    """Raises DatasetError unless what lies in `root` has the registered sizes."""
    fetched = replace(copy, data_root=root)
    problems = fetched.count_problems(fetched.read())
    if problems:
        raise DatasetError(
            f"{copy.entry.name} was downloaded, but is not what is registered: {'; '.join(problems)}. Nothing is kept. "
            f"See {copy.entry.homepage}"
        )
