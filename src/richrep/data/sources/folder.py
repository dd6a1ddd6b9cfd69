"""`folder:PATH`: image folders, `PATH/{train,val,test}/CLASS/*`, or `PATH/CLASS/*` split by the fixed seed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from richrep.data.sources.layout import (
    absolute,
    check_parts,
    folder_entries,
    interleaved,
    is_folder,
    listing,
    make_dataset,
    part_named,
)
from richrep.data.split import Dataset, Split
from richrep.data.stores import FileStore
from richrep.errors import DatasetError

logger = logging.getLogger(__name__)

# torchvision.datasets.folder.IMG_EXTENSIONS; a test holds them against each other
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def load(rest: str) -> Dataset:
    """The image folder `rest`; its parts are told by the folder names train, val (valid, validation) and test.

    - With train and test: as stored, val too. With train alone: split 80/20 per class by the fixed seed.
      With train and val but no test: an error, because a val part is never scored as test.
    - With none of the three: every folder is a class, split 80/20 likewise.

    Classes are the sorted folder names of train. Images may lie deeper inside a class folder. Passed over are hidden
    files, files of other types, files beside the class folders, and the folders that archives and servers add
    (__MACOSX, @eaDir). Symbolic links are followed.
    Every part is interleaved by class, so that its first images are a fair sample.

    Raises:
        DatasetError: the folder is missing or holds no images, a class folder is empty, a class is in val or test
            only, there is no test part and none can be split off.
    """
    root = absolute(rest)
    folders = _part_folders(root)
    if folders:
        check_parts(folders, where=root)
    else:
        folders = {"train": root}
    classes = {part: class_files(folder) for part, folder in folders.items()}
    _check_class_folders(classes, root)
    class_names = tuple(classes["train"])
    parts = {p: _make_split(root.name, p, folders[p], classes[p], class_names) for p in folders}
    return make_dataset(parts, address=f"folder:{rest}")


def _part_folders(root: Path) -> dict[str, Path]:
    """The folders train, val and test of `root`, as far as it has them."""
    folders: dict[str, Path] = {}
    for entry in folder_entries(root):
        part = part_named(entry.name)
        if part is None or not is_folder(entry):
            continue
        if part in folders:
            raise DatasetError(
                f"{root} holds both {folders[part].name!r} and {entry.name!r}, and each could be the {part} part. "
                "Rename one."
            )
        folders[part] = Path(entry.path)
    return folders


def class_files(folder: Path) -> dict[str, list[str]]:
    """Class name -> its image files relative to `folder`, both sorted.

    Raises:
        DatasetError: no class folders, no images, or a class folder without images.
    """
    entries = folder_entries(folder)
    names = [entry.name for entry in entries if is_folder(entry) and entry.name not in _NO_CLASSES]
    if not names:
        raise DatasetError(_no_class_folders_message(folder, [entry.name for entry in entries]))
    files = {name: _image_files(folder / name, prefix=name + "/", outer=()) for name in names}
    _warn_if_all_lie_deeper(folder, files)
    empty = [name for name in names if not files[name]]
    if len(empty) == len(names):
        raise DatasetError(f"{folder} holds no images in its folders {listing(names)}. Looked for {_EXTENSIONS_TEXT}.")
    if empty:
        raise DatasetError(
            f"{folder} has an empty class: no images in {listing(empty)}. Looked for {_EXTENSIONS_TEXT}. "
            "Add images or remove the folder."
        )
    return files


_EXTENSIONS_TEXT = ", ".join(EXTENSIONS)
_NO_CLASSES = ("__MACOSX", "@eaDir", "lost+found")


def _warn_if_all_lie_deeper(folder: Path, files: Mapping[str, list[str]]) -> None:
    """Class folders that hold only folders may be groups of classes, as a … z of SUN397 are."""
    inner = {file.rpartition("/")[0] for of_class in files.values() for file in of_class}
    if len(inner) > len(files) > 1 and not any(place in files for place in inner):
        logger.warning(
            f"{folder}: its {len(files)} folders hold no images but {len(inner)} folders of images, e.g. "
            f"{min(inner)!r}. The outer folders are taken as the classes; if the inner ones are, put them side by side."
        )


def _no_class_folders_message(folder: Path, names: list[str]) -> str:
    images = sum(_is_image(name) for name in names)
    if images:
        is_part = part_named(folder.name) is not None
        hint = f" If {folder.name!r} is a class and not a part, put it and the others into train." if is_part else ""
        return (
            f"{folder} holds {images} images but no class folders. Put the images of every class into a folder of "
            f"its name, CLASS/*.{hint}"
        )
    hint = " It holds Parquet files: use parquet:PATH." if any(n.endswith(".parquet") for n in names) else ""
    return f"{folder} holds no images. Expected CLASS/* or {{train,val,test}}/CLASS/*.{hint}"


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _image_files(folder: Path, *, prefix: str, outer: tuple[tuple[int, int], ...]) -> list[str]:
    """Image files at any depth in `folder`, sorted, each with `prefix` before its path.

    A symbolic link to nowhere counts as an image: it is reported when read, not lost. `outer` holds device and inode
    of the folders around this one, to find links that lead in a circle.
    """
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in outer:
        raise DatasetError(f"{folder} is a symbolic link to a folder around it, a circle. Remove the link.")
    files: list[str] = []
    for entry in folder_entries(folder):
        if is_folder(entry):
            files += _image_files(folder / entry.name, prefix=f"{prefix}{entry.name}/", outer=(*outer, here))
        elif _is_image(entry.name):
            files.append(prefix + entry.name)
    return sorted(files)


def _check_class_folders(classes: Mapping[str, Mapping[str, object]], root: Path) -> None:
    for part, names in classes.items():
        missing = [name for name in names if name not in classes["train"]]
        if missing:
            raise DatasetError(
                f"{root}: {part} holds the class {listing(missing)}, of which train has no folder. "
                f"Add training images, or remove it from {part}."
            )


def _make_split(
    dataset: str, part: str, folder: Path, files: Mapping[str, list[str]], class_names: tuple[str, ...]
) -> Split:
    label_of = {name: label for label, name in enumerate(class_names)}
    labels = np.repeat([label_of[name] for name in files], [len(of_class) for of_class in files.values()])
    split = Split(
        dataset=dataset,
        part=part,
        images=FileStore(folder, [file for of_class in files.values() for file in of_class]),
        positions=np.arange(len(labels)),
        labels=labels.astype(np.int64),
        class_names=class_names,
    )
    return interleaved(split)
