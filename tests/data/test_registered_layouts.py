"""A tiny replica of every official layout, loaded by the real code; only the registered sizes are the replica's."""

from __future__ import annotations

import csv
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision.datasets import Flowers102

from richrep.data.datasets import load_dataset, load_split
from richrep.data.registry import REGISTRY
from richrep.data.sources.imagenet import imagenet_wnids
from richrep.data.split import Split
from richrep.errors import DatasetError

PARTS = ("train", "val", "test")
WNIDS = ("n01440764", "n01443537", "n02074367")  # classes 0, 1 and 149 of ImageNet


@dataclass(frozen=True)
class Replica:
    """What a writer below wrote: K, and for every split it wrote, part -> images and part -> classes."""

    num_classes: int
    sizes: Mapping[str, Mapping[str, int]]
    classes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    part_is_written: bool = True  # False where a rule divides the images: no file says to which part it belongs


def put(path: Path, label: int, part: str | None = None) -> Path:
    """An image whose grey value says label and part: 25 * label, + 5, 10 or 15 for train, val or test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = 25 * label + (5 * (PARTS.index(part) + 1) if part else 0)
    Image.new("L", (2, 2), colour).save(path, "PNG")  # whatever the name says; images are told by their content
    return path


def write_lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def even(splits: Any, **sizes: int) -> dict[str, dict[str, int]]:
    return {name: dict(sizes) for name in splits}


def write_flowers102(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    folder = root / "flowers-102"
    labels = [1 + i % 3 for i in range(12)]  # ids 1 … 12; labels in the file count from 1
    parts = ["train"] * 3 + ["val"] * 3 + ["test"] * 6
    for i, (label, part) in enumerate(zip(labels, parts, strict=True), start=1):
        put(folder / "jpg" / f"image_{i:05d}.jpg", label - 1, part)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": [labels]})
    ids = {"trnid": [[1, 2, 3]], "valid": [[4, 5, 6]], "tstid": [[*range(7, 13)]]}
    scipy.io.savemat(folder / "setid.mat", ids)
    names = {"label": "imagelabels.mat", "setid": "setid.mat"}
    md5 = {key: (name, hashlib.md5((folder / name).read_bytes()).hexdigest()) for key, name in names.items()}
    monkeypatch.setattr(Flowers102, "_file_dict", {**Flowers102._file_dict, **md5})
    return Replica(102, even(["official"], train=3, val=3, test=6))


def write_oxford_pets(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    folder = root / "oxford-iiit-pet"
    for name, part in (("trainval", "train"), ("test", "test")):
        lines = []
        for label, breed in enumerate(("Abyssinian", "american_bulldog", "Bengal")):
            image = f"{breed}_{1 + (part == 'test')}"
            put(folder / "images" / f"{image}.jpg", label, part)
            lines.append(f"{image} {label + 1} 1 1")
        write_lines(folder / "annotations" / f"{name}.txt", *lines)
    return Replica(3, even(["official"], train=3, test=3))


def write_dtd(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    folder = root / "dtd" / "dtd"
    for number in (1, 10):
        for i, part in enumerate(PARTS):
            lines = []
            for label, name in enumerate(("banded", "dotted")):
                put(folder / "images" / name / f"{name}_{i:04d}.jpg", label, None)
                lines.append(f"{name}/{name}_{i:04d}.jpg")
            write_lines(folder / "labels" / f"{part}{number}.txt", *lines)
    return Replica(2, even(["split1", "split10"], train=2, val=2, test=2), part_is_written=False)


def write_food101(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    for part in ("train", "test"):
        names = {name: [f"{name}/{i}_{part}" for i in range(2)] for name in ("waffles", "apple_pie")}
        for name, files in names.items():
            for file in files:
                put(root / "food-101" / "images" / f"{file}.jpg", int(name == "waffles"), part)
        write_lines(root / "food-101" / "meta" / f"{part}.json", json.dumps(names))
    return Replica(2, even(["official"], train=4, test=4))


def write_fgvc_aircraft(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    folder = root / "fgvc-aircraft-2013b" / "data"
    variants = ("707-320", "A300B4", "Boeing 717")
    write_lines(folder / "variants.txt", *variants)
    for i, part in enumerate(PARTS):
        for label in range(3):
            put(folder / "images" / f"{i}{label:06d}.jpg", label, part)
        lines = [f"{i}{label:06d} {variant}" for label, variant in enumerate(variants)]
        write_lines(folder / f"images_variant_{part}.txt", *lines)
    return Replica(3, even(["official"], train=3, val=3, test=3))


def write_stanford_cars(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names = np.array([["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]], dtype=object)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    for part, path in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = np.array(
            [[(label + 1, f"{label:05d}.jpg") for label in range(2)]], dtype=[("class", "O"), ("fname", "O")]
        )
        scipy.io.savemat(folder / path, {"annotations": rows})
        for label in range(2):
            put(folder / f"cars_{part}" / f"{label:05d}.jpg", label, part)
    return Replica(2, even(["official"], train=2, test=2))


def write_eurosat(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    for label, name in enumerate(("AnnualCrop", "Forest")):
        for i in range(10):
            put(root / "eurosat" / "2750" / name / f"{name}_{i}.jpg", label)
    return Replica(2, even(["trex"], train=10, val=4, test=6), part_is_written=False)


def write_sun397(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    folder, names = root / "SUN397", ("/a/abbey", "/a/airport/inside")
    write_lines(folder / "ClassName.txt", *names)
    for part, file in (("train", "Training"), ("test", "Testing")):
        images = [f"{name}/sun_{part}{i}.jpg" for name in names for i in range(2)]
        for image in images:
            put(folder / image.strip("/"), int("inside" in image), part)
        write_lines(folder / f"{file}_01.txt", *images)
        write_lines(folder / f"{file}_07.txt", *images[:3])
    sizes = even(["split1", "trex", "sparse"], train=4, test=4)
    return Replica(2, {**sizes, "split7": {"train": 3, "test": 3}})


def write_caltech101(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    folder = root / "caltech101" / "101_ObjectCategories"
    for label, name in enumerate(("BACKGROUND_Google", "accordion", "airplanes"), start=-1):
        for i in range(5):
            put(folder / name / f"image_{i + 1:04d}.jpg", max(label, 0))
    return Replica(2, even(["sparse", "trex"], train=4, test=6), part_is_written=False)


def write_caltech256(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    folder = root / "caltech256" / "256_ObjectCategories"
    for label, name in enumerate(("001.ak47", "002.american-flag", "257.clutter")):
        for i in range(5):
            put(folder / name / f"{label + 1:03d}_{i + 1:04d}.jpg", label)
    write_lines(folder / "001.ak47" / "RENAME2", "a stray file of the official archive")
    return Replica(3, even(["sparse", "trex"], train=6, test=9), part_is_written=False)


def write_birdsnap(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    for part, count in (("train", 3), ("test", 1)):
        for label, name in enumerate(("Acadian_Flycatcher", "Acorn_Woodpecker")):
            for i in range(count):
                put(root / "birdsnap" / part / name / f"{i}.jpg", label, part)
    return Replica(2, even(["sparse"], train=6, test=2))


def write_cub200(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    folder, names = root / "CUB_200_2011", [f"{i + 1:03d}.Bird_{i}" for i in range(8)]
    images = [(f"{name}/{name}_{i}.jpg", label, i) for label, name in enumerate(names) for i in range(3)]
    for path, label, i in images:
        put(folder / "images" / path, label, "train" if i < 2 else "test")
    numbered = list(enumerate(images, start=1))
    write_lines(folder / "images.txt", *(f"{n} {path}" for n, (path, _, _) in numbered))
    write_lines(folder / "image_class_labels.txt", *(f"{n} {label + 1}" for n, (_, label, _) in numbered))
    write_lines(folder / "train_test_split.txt", *(f"{n} {int(i < 2)}" for n, (_, _, i) in numbered))
    write_lines(folder / "classes.txt", *(f"{n} {name}" for n, name in enumerate(names, start=1)))
    sizes = {"official": {"train": 16, "test": 8}, "fewshot": {"train": 12, "val": 6, "test": 6}}
    return Replica(8, sizes, {"fewshot": {"train": 4, "val": 2, "test": 2}}, part_is_written=False)


def write_inaturalist(year: int) -> Callable[[Path, pytest.MonkeyPatch], Replica]:
    def write(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
        folder = root / f"inat{year}"
        for name, part in (("train", "train"), ("val", "test")):
            images, annotations = [], []
            for number, label in enumerate((2, 0, 1)):
                file = f"train_val{year}/Plantae/{label}/{name}{number}.jpg"
                put(folder / (file if year == 2018 else file.replace("train_val", "")), label, part)
                images.append({"id": 100 + number, "file_name": file})
                annotations.append({"id": 900 - number, "image_id": 100 + number, "category_id": label})
            categories = [{"id": i, "name": f"species {i}"} for i in range(3)]
            content = {"images": images, "annotations": annotations[::-1], "categories": categories}
            write_lines(folder / f"{name}{year}.json", json.dumps(content))
        return Replica(3, even(["official"], train=3, test=3))

    return write


def write_imagenet1k(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    for part, name, count in (("train", "train", 3), ("test", "val", 1)):
        for label, wnid in enumerate(WNIDS):
            for i in range(count):
                put(root / "imagenet" / name / wnid / f"{wnid}_{i}.JPEG", label, part)
    return Replica(3, even(["official"], train=9, test=3))


def write_cog(level: int) -> Callable[[Path, pytest.MonkeyPatch], Replica]:
    def write(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
        folder = root / "imagenet21k"
        folder.mkdir(parents=True)
        levels = [[f"n{n}{i}" for i in (1, 0)] for n in range(1, 6)]  # each level unsorted, as the official file
        images: dict[str, dict[str, np.ndarray]] = {}
        for concept in levels[level - 1]:
            label = int(concept[-1])
            names = {"train": [f"/{concept}/b.JPEG", f"/{concept}/a.JPEG"], "test": [f"\\{concept}/c.JPEG"]}
            images[concept] = {part: np.array(files) for part, files in names.items()}
            for part, files in names.items():
                for file in files:
                    put(folder / file.lstrip("/\\"), label, part)
        images[levels[level - 1][0]]["train"] = images[levels[level - 1][0]]["train"].astype(object)
        protocol = 2 + level % 4
        (folder / "cog_levels_mapping_file.pkl").write_bytes(pickle.dumps(levels, protocol=protocol))
        (folder / "cog_concepts_split_file.pkl").write_bytes(pickle.dumps(images, protocol=protocol))
        return Replica(2, even(["official"], train=4, test=2))

    return write


def write_mini_imagenet(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    folder = root / "mini_imagenet"
    classes = {"train": (0, 3, 5), "val": (1,), "test": (2, 4)}
    for part, labels in classes.items():
        rows = [(f"n0000000{label}0000000{i}.jpg", f"n0000000{label}") for label in labels for i in range(2)]
        write_lines(folder / f"{part}.csv", "filename,label", *(",".join(row) for row in rows))
        for file, wnid in rows:
            put(folder / "images" / file, int(wnid[-1]), part)
    return Replica(6, even(["official"], train=6, val=2, test=4), {"official": {"train": 3, "val": 1, "test": 2}})


def write_imagenet_v2(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    folders = {split: info.needs[0] for split, info in REGISTRY["imagenet_v2"].splits.items()}
    for folder in folders.values():
        for number in range(3):
            put(root / folder / str((0, 9, 10)[number]) / "x.jpeg", number, "test")  # as text 10 comes before 9
    return Replica(1000, even(folders, test=3), {split: {"test": 3} for split in folders})


def write_shift(folder: str) -> Callable[[Path, pytest.MonkeyPatch], Replica]:
    def write(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
        for number, wnid in enumerate(WNIDS):
            put(root / folder / wnid / "x.jpg", number, "test")
            put(root / folder / wnid / "y.JPEG", number, "test")
        return Replica(1000, even(["official"], test=6), {"official": {"test": 3}})

    return write


def write_camelyon17(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    folder = root / "camelyon17_v1.0"
    folder.mkdir(parents=True)
    columns = ("", "patient", "node", "x_coord", "y_coord", "tumor", "slide", "center", "split")
    rows = []
    for center, split, count in ((0, 0, 4), (3, 0, 2), (4, 1, 4), (1, 0, 2), (1, 1, 4), (2, 0, 8)):
        part = {1: "val", 2: "test"}.get(center, "val" if split else "train")
        for i in range(count):
            rows.append((len(rows), f"{center:03d}", 4, 32 * len(rows), 7, i % 2, 1, center, split))
            name = f"patient_{center:03d}_node_4"
            put(folder / "patches" / name / f"patch_{name}_x_{32 * (len(rows) - 1)}_y_7.png", i % 2, part)
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return Replica(2, {"ood": {"train": 6, "val": 6, "test": 8}, "id": {"train": 6, "val": 4, "test": 8}})


def write_pacs(root: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    counts = {"art_painting": 1, "cartoon": 2, "photo": 3, "sketch": 4}
    for domain, count in counts.items():
        for label, name in enumerate(("dog", "elephant")):
            for i in range(count):
                put(root / "PACS" / domain / name / f"{i}.jpg", label)
    sizes = {domain: {"train": 20 - 2 * count, "test": 2 * count} for domain, count in counts.items()}
    return Replica(2, sizes, part_is_written=False)


WRITERS: dict[str, Callable[[Path, pytest.MonkeyPatch], Replica]] = {
    "flowers102": write_flowers102,
    "oxford_pets": write_oxford_pets,
    "dtd": write_dtd,
    "food101": write_food101,
    "fgvc_aircraft": write_fgvc_aircraft,
    "stanford_cars": write_stanford_cars,
    "eurosat": write_eurosat,
    "sun397": write_sun397,
    "caltech101": write_caltech101,
    "caltech256": write_caltech256,
    "birdsnap": write_birdsnap,
    "cub200": write_cub200,
    "inat2018": write_inaturalist(2018),
    "inat2019": write_inaturalist(2019),
    "imagenet1k": write_imagenet1k,
    **{f"imagenet_cog_l{level}": write_cog(level) for level in range(1, 6)},
    "mini_imagenet": write_mini_imagenet,
    "imagenet_v2": write_imagenet_v2,
    "imagenet_r": write_shift("imagenet-r"),
    "imagenet_a": write_shift("imagenet-a"),
    "imagenet_sketch": write_shift("sketch"),
    "camelyon17": write_camelyon17,
    "pacs": write_pacs,
}
Write = Callable[[str], Replica]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """write("dtd"): its replica under `tmp_path`, with the sizes of the replica in the registry."""

    def write_replica(name: str) -> Replica:
        replica = WRITERS[name](tmp_path, monkeypatch)
        entry = REGISTRY[name]
        splits = {
            split: replace(entry.splits[split], sizes=sizes, num_classes=replica.classes.get(split))
            for split, sizes in replica.sizes.items()
        }
        monkeypatch.setitem(REGISTRY, name, replace(entry, num_classes=replica.num_classes, splits=splits))
        return replica

    return write_replica


def colours(split: Split) -> np.ndarray:
    return np.array([np.asarray(split.load_image(row))[0, 0, 0] for row in range(len(split))], dtype=int)


def test_every_registered_data_set_has_a_replica() -> None:
    elsewhere = {"digits", "cifar10", "cifar100"}  # test_sources_digits.py, test_sources_torchvision.py
    assert set(WRITERS) | elsewhere == set(REGISTRY)


@pytest.mark.parametrize("name", WRITERS)
def test_the_official_layout_is_read(name: str, write: Write, tmp_path: Path) -> None:
    replica = write(name)
    for split_name, sizes in replica.sizes.items():
        address = f"{name}:{split_name}" if len(replica.sizes) > 1 else name
        seen: set[str] = set()
        for part, size in sizes.items():
            split = load_split(address, part, data_root=tmp_path)
            assert (len(split), split.num_classes, split.dataset) == (size, replica.num_classes, address)
            assert split.note == REGISTRY[name].splits[split_name].rule
            values = colours(split)
            present = np.arange(split.num_classes) if split.class_mask is None else np.flatnonzero(split.class_mask)
            grey_of = {label: label for label in split.labels}
            if name.startswith("imagenet_") and split.class_mask is not None:
                grey_of = {label: number for number, label in enumerate(present)}
            assert (values // 25).tolist() == [grey_of[label] for label in split.labels]
            if replica.part_is_written:
                assert set(values % 25) == {5 * (PARTS.index(part) + 1)}
            names = {split.image_name(row) for row in range(size)}
            assert len(names) == size and seen.isdisjoint(names)
            seen |= names
            turn = len(np.unique(split.labels))
            assert len(set(split.labels[:turn])) == turn  # the classes take turns


@pytest.mark.parametrize("name", WRITERS)
def test_another_size_is_an_error_that_names_both(
    name: str, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = write(name)
    entry = REGISTRY[name]
    split = entry.default_split
    sizes = {part: size + 1234 for part, size in entry.splits[split].sizes.items()}
    changed = {**entry.splits, split: replace(entry.splits[split], sizes=sizes)}
    monkeypatch.setitem(REGISTRY, name, replace(entry, splits=changed))
    found = replica.sizes[split]["test"]
    if name in ("eurosat", "caltech101", "caltech256"):  # these sizes also say how many of a class go where
        pattern = r"(train|test) has \d+ images, expected 1,2\d\d|it has no images of (val|test)"
    else:
        pattern = rf"is not complete, or not this data set: .*test has {found:,} images, expected 1,2\d\d"
    with pytest.raises(DatasetError, match=pattern) as caught:
        load_split(name, "test", data_root=tmp_path)
    assert entry.get.split("DATA_ROOT")[0] in str(caught.value)


@pytest.mark.parametrize("name", WRITERS)
def test_absent_and_incomplete_copies_say_what_is_missing_and_how_to_get_it(
    name: str, write: Write, tmp_path: Path
) -> None:
    entry = REGISTRY[name]
    needs = (*entry.needs, *entry.splits[entry.default_split].needs)
    with pytest.raises(DatasetError, match=r"is not there: .* does not exist\.") as caught:
        load_split(name, "test", data_root=tmp_path)
    assert str(tmp_path / needs[0]) in str(caught.value) and str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []  # torchvision makes folders when asked for what is not there
    if len(needs) > 1:
        write(name)
        target = tmp_path / needs[-1]
        target.rename(target.with_name("elsewhere"))
        with pytest.raises(DatasetError, match=rf"is not complete: '{target}' does not exist"):
            load_split(name, "test", data_root=tmp_path)


@pytest.mark.parametrize("name", ["birdsnap", "pacs", "imagenet_a", "imagenet1k"])
def test_an_empty_folder_in_the_place_of_images_is_one_message(name: str, write: Write, tmp_path: Path) -> None:
    write(name)
    folder = tmp_path / REGISTRY[name].needs[0]
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(DatasetError, match=rf"{folder} holds no images\. Expected CLASS/\*"):
        load_split(name, "test", data_root=tmp_path)


@pytest.mark.parametrize("name", ["imagenet_v2", "imagenet_r", "imagenet_a", "imagenet_sketch"])
def test_a_test_set_without_train_cannot_be_probed_but_its_images_can_be_loaded(
    name: str, write: Write, tmp_path: Path
) -> None:
    write(name)
    with pytest.raises(
        DatasetError, match=rf"{name}.* has no train part, .*Train on imagenet1k, .*load_split\('{name}'"
    ):
        load_dataset(name, data_root=tmp_path)
    for part in ("train", "trainval", "val"):
        with pytest.raises(DatasetError, match=f"stores no {part} part, only test"):
            load_split(name, part, data_root=tmp_path)
    split = load_split(name, "test", data_root=tmp_path)
    expected = [0, 9, 10] if name == "imagenet_v2" else [0, 1, 149]
    assert split.class_mask is not None and np.flatnonzero(split.class_mask).tolist() == expected
    assert split.class_names == imagenet_wnids() and set(split.labels) == set(expected)
    first = split.first(1).class_mask
    assert first is not None and first.sum() == 3  # the mask belongs to the data set, not to the images taken


@pytest.mark.parametrize("address", ["mini_imagenet", "cub200:fewshot"])
def test_parts_of_different_classes_are_for_few_shot_tasks_only(address: str, write: Write, tmp_path: Path) -> None:
    write(address.partition(":")[0])
    with pytest.raises(DatasetError, match=f"{address} cannot be probed: its parts hold different classes"):
        load_dataset(address, data_root=tmp_path)
    classes = [set(load_split(address, part, data_root=tmp_path).labels) for part in PARTS]
    assert not set.intersection(*classes)
    assert set.union(*classes) == set(range(REGISTRY[address.partition(":")[0]].num_classes))


def test_the_few_shot_classes_of_cub_go_by_their_number(write: Write, tmp_path: Path) -> None:
    write("cub200")
    classes = [sorted(set(load_split("cub200:fewshot", part, data_root=tmp_path).labels)) for part in PARTS]
    assert classes == [[0, 2, 4, 6], [1, 5], [3, 7]]


def test_hospitals_and_domains_are_groups(write: Write, tmp_path: Path) -> None:
    write("camelyon17")
    found = {}
    for split in ("ood", "id"):
        dataset = load_dataset(f"camelyon17:{split}", data_root=tmp_path)
        assert dataset.val is not None and dataset.val.groups is not None
        found[split] = set(dataset.val.groups)
        assert dataset.train.groups is not None and set(dataset.train.groups) == {"hospital 0", "hospital 3"}
        assert dataset.test.groups is not None and set(dataset.test.groups) == {"hospital 2"}
        trainval = load_split(f"camelyon17:{split}", "trainval", data_root=tmp_path)
        assert trainval.groups is not None and set(trainval.groups) == set(dataset.train.groups) | found[split]
    assert found == {"ood": {"hospital 1"}, "id": {"hospital 4"}}
    write("pacs")
    pacs = load_dataset("pacs:cartoon", data_root=tmp_path)
    assert pacs.train.groups is not None and set(pacs.train.groups) == {"art_painting", "photo", "sketch"}
    for row in range(len(pacs.train)):
        assert f"/{pacs.train.groups[row]}/" in pacs.train.image_name(row)


@pytest.mark.parametrize("name", ["flowers102", "pacs", "cub200"])
def test_a_copy_one_folder_off_is_found(name: str, write: Write, tmp_path: Path) -> None:
    write(name)
    (tmp_path / "sets").mkdir()
    top = Path(REGISTRY[name].needs[0]).parts[0]
    (tmp_path / top).rename(tmp_path / "sets" / top)
    for root in (tmp_path, tmp_path / "sets" / top):
        with pytest.raises(DatasetError, match=rf"but it is in {tmp_path}/sets: give --data-root {tmp_path}/sets\."):
            load_split(name, "test", data_root=root)
    load_split(name, "test", data_root=tmp_path / "sets")


def test_layouts_that_look_alike_are_told_apart(write: Write, tmp_path: Path) -> None:
    for name in ("pacs", "imagenet_r", "imagenet_a", "birdsnap", "imagenet1k"):
        write(name)
    with pytest.raises(
        DatasetError, match=r"PACS/sketch has folders of no class of imagenet_sketch, 'dog', 'elephant'"
    ):
        load_split("imagenet_sketch", "test", data_root=tmp_path / "PACS")
    put(tmp_path / "imagenet-a" / WNIDS[0] / "z.jpg", 0)
    with pytest.raises(DatasetError, match=r"imagenet_a .*or not this data set: test has 7 images, expected 6"):
        load_split("imagenet_a", "test", data_root=tmp_path)
    plain = load_dataset(f"folder:{tmp_path / 'birdsnap'}")
    assert plain.test.fingerprint == load_split("birdsnap", "test", data_root=tmp_path).fingerprint
    with pytest.raises(DatasetError, match=r"stores train and val but no test part.*as in ImageNet"):
        load_dataset(f"folder:{tmp_path / 'imagenet'}")


def cut_camelyon(root: Path, keep: Callable[[dict[str, str]], bool]) -> None:
    """The table of the patches, without the lines that `keep` refuses."""
    path = root / "camelyon17_v1.0" / "metadata.csv"
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        lines = [line for line in reader if keep(line)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, reader.fieldnames or [])
        writer.writeheader()
        writer.writerows(lines)


@pytest.mark.parametrize(
    ("keep", "split", "words"),
    [
        (lambda line: line["center"] != "2", "ood", "no patch of hospital 2, the test part"),
        (lambda line: line["center"] != "1", "ood", "no patch of hospital 1, the val part"),
        (lambda line: line["center"] != "4", "id", "no patch of hospitals 0, 3 and 4 with split 1, the val part"),
        (lambda line: line["center"] in "12", "ood", "no patch of hospitals 0, 3 and 4 with split 0, the train part"),
        (lambda line: False, "id", "no patch of hospitals 0, 3 and 4 with split 0, the train part"),
    ],
)
def test_a_hospital_without_patches_is_named(
    keep: Callable[[dict[str, str]], bool], split: str, words: str, write: Write, tmp_path: Path
) -> None:
    write("camelyon17")
    cut_camelyon(tmp_path, keep)
    with pytest.raises(DatasetError, match=rf"camelyon17:{split} in .* is not complete: metadata\.csv lists {words}\."):
        load_dataset(f"camelyon17:{split}", data_root=tmp_path)


@pytest.mark.parametrize(("column", "value"), [("center", "5"), ("center", ""), ("tumor", "2"), ("tumor", "yes")])
def test_a_patch_of_no_hospital_or_label_is_named_with_its_line(
    column: str, value: str, write: Write, tmp_path: Path
) -> None:
    def spoil(line: dict[str, str]) -> bool:
        if line[""] == "3":
            line[column] = value
        return True

    write("camelyon17")
    cut_camelyon(tmp_path, spoil)
    with pytest.raises(
        DatasetError, match=rf"metadata\.csv line 5 has the center .*'{value}'.* expected a center of 0"
    ):
        load_dataset("camelyon17", data_root=tmp_path)


def test_the_plain_name_is_the_first_split_and_records_it(write: Write, tmp_path: Path) -> None:
    write("sun397")
    plain, named = (load_dataset(address, data_root=tmp_path) for address in ("SUN", "sun397:SPLIT-1"))
    assert (plain.name, plain.address, named.name) == ("sun397:split1", "SUN", "sun397:split1")
    assert plain.train.fingerprint == named.train.fingerprint
    for paper in ("trex", "sparse"):
        assert load_dataset(f"sun397:{paper}", data_root=tmp_path).train.fingerprint == plain.train.fingerprint


def test_divisions_by_rule_never_change(write: Write, tmp_path: Path) -> None:
    write("caltech101")
    files = {
        split: sorted(
            Path(s.image_name(row)).stem[-1]
            for s in [load_split(f"caltech101:{split}", "train", data_root=tmp_path)]
            for row in range(len(s))
            if s.labels[row] == 0
        )
        for split in ("sparse", "trex")
    }
    # sparse: the first two of five. trex: SHA-256 of "0:accordion/image_0001.jpg" … sorts 3, 5, 4, 1, 2 (sha256sum)
    assert files == {"sparse": ["1", "2"], "trex": ["3", "5"]}


def test_a_list_of_images_that_holds_code_is_refused_and_not_run(write: Write, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    write("imagenet_cog_l1")
    (tmp_path / "imagenet21k" / "cog_levels_mapping_file.pkl").write_bytes(pickle.dumps([[Attack()]] * 5))
    with pytest.raises(
        DatasetError, match=r"cannot be read safely: it asks for (pathlib\.|posixpath|builtins\.getattr)"
    ):
        load_dataset("imagenet_cog_l1", data_root=tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "file", "content", "reason"),
    [
        ("inat2018", "inat2018/val2018.json", "{", "JSONDecodeError"),
        ("camelyon17", "camelyon17_v1.0/metadata.csv", "a,b\n1,2\n", "KeyError"),
        ("stanford_cars", "stanford_cars/devkit/cars_meta.mat", "no", "Error"),
        ("fgvc_aircraft", "fgvc-aircraft-2013b/data/images_variant_val.txt", "0000001 Concorde\n", "KeyError"),
        ("cub200", "CUB_200_2011/classes.txt", "1\n", "ValueError"),
    ],
)
def test_a_damaged_list_is_one_message(
    name: str, file: str, content: str, reason: str, write: Write, tmp_path: Path
) -> None:
    write(name)
    (tmp_path / file).write_text(content)
    with pytest.raises(DatasetError, match=rf"{name}.* in {tmp_path} cannot be read \(.*{reason}"):
        load_split(name, "test", data_root=tmp_path)


def test_a_folder_of_no_imagenet_class_is_named(write: Write, tmp_path: Path) -> None:
    write("imagenet1k")
    write("imagenet_r")
    put(tmp_path / "imagenet" / "train" / "cats" / "x.jpg", 0)
    put(tmp_path / "imagenet-r" / "dogs" / "x.jpg", 0)
    for name, folder in (("imagenet1k", "cats"), ("imagenet_r", "dogs")):
        with pytest.raises(DatasetError, match=rf"has folders of no .*class.* '{folder}'"):
            load_split(name, "test", data_root=tmp_path)


def test_a_listed_image_that_is_absent_is_found_when_sun_is_loaded(write: Write, tmp_path: Path) -> None:
    write("sun397")
    (tmp_path / "SUN397" / "a" / "abbey" / "sun_train1.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 images of train do not exist, '.*abbey/sun_train1\.jpg'"):
        load_dataset("sun397", data_root=tmp_path)
