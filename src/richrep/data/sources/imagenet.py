"""ImageNet-1k, the levels of ImageNet-CoG, and the test sets on ImageNet's classes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np

from richrep.data.sources.class_folders import make_class_part
from richrep.data.sources.folder import class_files
from richrep.data.sources.layout import listing
from richrep.data.sources.registered import RegisteredCopy
from richrep.data.split import Split
from richrep.errors import DatasetError


def imagenet_wnids() -> tuple[str, ...]:
    """The 1,000 WordNet ids of ImageNet-1k, sorted: the place of each is its class number. timm brings the list."""
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo("imagenet-1k")  # timm is not typed
    return tuple(info.label_names())


def read_imagenet1k(copy: RegisteredCopy) -> dict[str, Split]:
    """ImageNet-1k as `imagenet/{train,val}/WNID/*`; the official val part is test.

    Source: O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, 2015.
    """
    folders = {part: copy.data_root / "imagenet" / name for part, name in (("train", "train"), ("test", "val"))}
    files = {part: class_files(folder) for part, folder in folders.items()}
    names = tuple(files["train"])
    strange = sorted(set(names) - set(imagenet_wnids()))
    if strange:
        raise copy.error(f"in {folders['train']} has folders of no ImageNet class, {listing(strange)}")
    return {part: make_class_part(copy, part, folders[part], files[part], names) for part in folders}


def read_shift(copy: RegisteredCopy) -> dict[str, Split]:
    """Test images of ImageNet's classes, in folders named by WordNet id or by class number.

    Labels count in the 1,000 classes; the class mask marks those that have a folder.

    Source: B. Recht et al. 2019 (ImageNet-V2), D. Hendrycks et al. 2021 (-R, -A), H. Wang et al. 2019 (-Sketch).
    """
    folder, wnids = copy.needs[0], imagenet_wnids()
    files = class_files(folder)
    if all(name.isdecimal() and int(name) < len(wnids) for name in files):  # ImageNet-V2: 0 … 999
        files = {wnids[int(name)]: of_class for name, of_class in files.items()}
    mask = np.isin(wnids, list(files))
    return {"test": make_class_part(copy, "test", folder, files, wnids, class_mask=mask)}


def read_cog(copy: RegisteredCopy) -> dict[str, Split]:
    """One level of ImageNet-CoG: 1,000 concepts of ImageNet-21k, sorted, with train and 50 test images each.

    Source: M. B. Sariyildiz et al., Concept Generalization in Visual Representation Learning, 2021 (naver/cog).
    """
    folder = copy.data_root / "imagenet21k"
    level = int(copy.entry.name[-1])
    concepts = sorted(_load_plain_pickle(folder / "cog_levels_mapping_file.pkl")[level - 1])
    images = _load_plain_pickle(folder / "cog_concepts_split_file.pkl")
    parts = {}
    for part in ("train", "test"):
        files = {name: sorted(str(file).lstrip("/\\") for file in images[name][part]) for name in concepts}
        parts[part] = make_class_part(copy, part, folder, files, concepts)
    return parts


class _PlainUnpickler(pickle.Unpickler):
    """Lists, dicts, text, numbers and numpy arrays of them; nothing else, so that no code in the file can run."""

    def find_class(self, module: str, name: str) -> Any:
        """The few harmless names that pickles of numpy arrays ask for. Raises DatasetError for any other."""
        known = {
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "numpy.core.multiarray._reconstruct": _empty_array,
            "numpy.core.multiarray.scalar": _scalar,
            "numpy.core.numeric._frombuffer": _array_of_bytes,
            "_codecs.encode": _latin1,
        }
        asked = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # numpy 2 renamed it
        if asked not in known:
            raise DatasetError(f"it asks for {asked}, which lists of images do not need")
        return known[asked]


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """What numpy's pickles begin with: an empty array; its state follows."""
    return np.ndarray((0,), dtype=np.int8)


def _scalar(dtype: np.dtype[Any], data: bytes) -> Any:
    return np.frombuffer(data, dtype=dtype)[0]


def _array_of_bytes(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Literal["C", "F"]) -> np.ndarray:
    return np.frombuffer(data, dtype=dtype).reshape(shape, order=order)


def _latin1(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 hold bytes."""
    return text.encode("latin1")


def _load_plain_pickle(path: Path) -> Any:
    """The content of a pickle of plain values. Raises DatasetError when it asks for anything else, or is damaged."""
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except Exception as error:  # a damaged pickle raises anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"{path} cannot be read safely: {reason}. Fetch it again.") from error
