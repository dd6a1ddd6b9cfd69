from __future__ import annotations

import csv
from importlib import import_module
from pathlib import Path

import pytest
import torchvision.datasets

from richrep.data.datasets import find_copy
from richrep.data.make_docs import render_datasets_markdown
from richrep.data.registry import REGISTRY, find_entry, plain
from richrep.errors import AddressError

DOCUMENT = Path(__file__).parents[2] / "docs" / "datasets.md"

# classes, trainval and test images as t-ReX's loaders assert them
TREX = {
    "imagenet1k": (1000, 1_281_167, 50_000),
    "imagenet_cog_l1": (1000, 1_118_804, 50_000),
    "imagenet_cog_l2": (1000, 1_115_788, 50_000),
    "imagenet_cog_l3": (1000, 1_095_203, 50_000),
    "imagenet_cog_l4": (1000, 1_107_128, 50_000),
    "imagenet_cog_l5": (1000, 1_091_654, 50_000),
    "fgvc_aircraft": (100, 6_667, 3_333),
    "stanford_cars": (196, 8_144, 8_041),
    "dtd": (47, 3_760, 1_880),
    "eurosat": (10, 18_900, 8_100),
    "flowers102": (102, 2_040, 6_149),
    "oxford_pets": (37, 3_680, 3_669),
    "food101": (101, 75_750, 25_250),
    "sun397": (397, 19_850, 19_850),
    "inat2018": (8_142, 437_513, 24_426),
    "inat2019": (1_010, 265_213, 3_030),
}
# the same and the metric, as the sparse transfer study has them
SPARSE = {
    "sun397": (397, 19_850, 19_850, "top-1"),
    "fgvc_aircraft": (100, 6_667, 3_333, "mean per-class"),
    "birdsnap": (500, 32_677, 8_171, "top-1"),
    "caltech101": (101, 3_030, 5_647, "mean per-class"),
    "caltech256": (257, 15_420, 15_187, "mean per-class"),
    "stanford_cars": (196, 8_144, 8_041, "top-1"),
    "cifar10": (10, 50_000, 10_000, "top-1"),
    "cifar100": (100, 50_000, 10_000, "top-1"),
    "dtd": (47, 3_760, 1_880, "top-1"),
    "flowers102": (102, 2_040, 6_149, "mean per-class"),
    "food101": (101, 75_750, 25_250, "top-1"),
    "oxford_pets": (37, 3_680, 3_669, "mean per-class"),
}
# every spelling that the papers' code and tables, torchvision and the hub use -> the address it must mean
SPELLINGS = {
    "torchvision": {
        "CIFAR10": "cifar10",
        "CIFAR100": "cifar100",
        "Caltech101": "caltech101:sparse",
        "Caltech256": "caltech256:sparse",
        "DTD": "dtd:split1",
        "EuroSAT": "eurosat",
        "FGVCAircraft": "fgvc_aircraft",
        "Flowers102": "flowers102",
        "Food101": "food101",
        "OxfordIIITPet": "oxford_pets",
        "StanfordCars": "stanford_cars",
        "SUN397": "sun397:split1",
        "ImageNet": "imagenet1k",
    },
    "t-ReX": {
        **{name: f"imagenet_cog_l{level}" for level in range(1, 6) for name in (f"cog_l{level}", f"CoG L-{level}")},
        **dict.fromkeys(["in1k", "IN-1K", "IN1K", "ImageNet-1K"], "imagenet1k"),
        **dict.fromkeys(["aircraft", "Aircraft"], "fgvc_aircraft"),
        **dict.fromkeys(["cars196", "Cars196"], "stanford_cars"),
        **dict.fromkeys(["dtd", "DTD"], "dtd:split1"),
        **dict.fromkeys(["eurosat", "EuroSAT"], "eurosat"),
        **dict.fromkeys(["flowers", "Flowers"], "flowers102"),
        **dict.fromkeys(["pets", "Pets"], "oxford_pets"),
        **dict.fromkeys(["food101", "Food101"], "food101"),
        **dict.fromkeys(["sun397", "SUN397"], "sun397:split1"),
        **dict.fromkeys(["inat2018", "iNat-2018"], "inat2018"),
        **dict.fromkeys(["inat2019", "iNat-2019"], "inat2019"),
    },
    "RRL": {
        **dict.fromkeys(["imagenet1k", "ImageNet1k"], "imagenet1k"),
        **dict.fromkeys(["cifar10", "CIFAR10"], "cifar10"),
        **dict.fromkeys(["cifar100", "CIFAR100"], "cifar100"),
        **dict.fromkeys(["inaturalist18", "iNaturalist18", "INAT18"], "inat2018"),
        **dict.fromkeys(["imagenetv2", "imagenetv2-matched-frequency"], "imagenet_v2:matched-frequency"),
        "imagenetv2-matched-frequency-format-val": "imagenet_v2:matched-frequency",
        "imagenetv2-threshold0.7": "imagenet_v2:threshold0.7",
        "imagenetv2-threshold0.7-format-val": "imagenet_v2:threshold0.7",
        "imagenetv2-top-images": "imagenet_v2:top-images",
        "imagenetv2-top-images-format-val": "imagenet_v2:top-images",
        "imagenetsketch": "imagenet_sketch",
        "imagenetr": "imagenet_r",
        "imageneta": "imagenet_a",
        **dict.fromkeys(["camelyon17", "CAMELYON17", "CAMELYON17-WILDS"], "camelyon17:ood"),
        **dict.fromkeys(["miniImageNet", "MiniImageNet"], "mini_imagenet"),
        "CUB": "cub200:official",
    },
    "sparse": {
        "SUN": "sun397:split1",
        "aircraft": "fgvc_aircraft",
        "birds": "birdsnap",
        "caltech101": "caltech101:sparse",
        "caltech256": "caltech256:sparse",
        **dict.fromkeys(["cars", "cars_new"], "stanford_cars"),
        "cifar10": "cifar10",
        "cifar100": "cifar100",
        "dtd": "dtd:split1",
        "food101": "food101",
        "pets": "oxford_pets",
        "flowers": "flowers102",
    },
    "Hugging Face": {
        "uoft-cs/cifar10": "cifar10",
        "uoft-cs/cifar100": "cifar100",
        "dpdl-benchmark/caltech101": "caltech101:sparse",
        "dpdl-benchmark/oxford_flowers102": "flowers102",
        "oxford_flowers102": "flowers102",
        "HuggingFaceM4/FGVC-Aircraft": "fgvc_aircraft",
        "tanganke/dtd": "dtd:split1",
        "tanganke/eurosat": "eurosat",
        "tanganke/stanford_cars": "stanford_cars",
        "tanganke/sun397": "sun397:split1",
        "timm/oxford-iiit-pet": "oxford_pets",
        "oxford-iiit-pet": "oxford_pets",
        "ethz/food101": "food101",
        "bentrevett/caltech-ucsd-birds-200-2011": "cub200:official",
        "caltech-ucsd-birds-200-2011": "cub200:official",
        "ILSVRC/imagenet-1k": "imagenet1k",
        "vaishaal/ImageNetV2": "imagenet_v2:matched-frequency",
        "axiong/imagenet-r": "imagenet_r",
        "barkermrl/imagenet-a": "imagenet_a",
        "songweig/imagenet_sketch": "imagenet_sketch",
        "wltjr1007/Camelyon17-WILDS": "camelyon17:ood",
        "flwrlabs/pacs": "pacs:sketch",
    },
    "in words": {
        "Oxford-IIIT Pet": "oxford_pets",
        "INaturalist2018": "inat2018",
        "mini-ImageNet": "mini_imagenet",
        "ImageNet-V2": "imagenet_v2:matched-frequency",
        "CUB-200-2011": "cub200:official",
        "FLOWERS-102": "flowers102",
        "sun 397": "sun397:split1",
    },
}
# the other entries of the column `target` of the papers' published tables: settings, means over data sets
NO_NAMES = ("mean of",)
PUBLISHED = Path(__file__).parents[3] / "shared" / "published"


def sizes(name: str) -> tuple[int, int, int]:
    entry = REGISTRY[name]
    info = entry.splits[entry.default_split].sizes
    return entry.num_classes, info["train"] + info.get("val", 0), info["test"]


@pytest.mark.parametrize("name", TREX)
def test_sizes_are_those_of_trex(name: str) -> None:
    assert sizes(name) == TREX[name]


@pytest.mark.parametrize("name", SPARSE)
def test_sizes_and_metrics_are_those_of_the_sparse_study(name: str) -> None:
    assert (*sizes(name), REGISTRY[name].describe_metric()) == SPARSE[name]


def test_camelyon_has_the_sizes_of_wilds() -> None:
    splits = REGISTRY["camelyon17"].splits
    assert splits["ood"].sizes == {"train": 302_436, "val": 34_904, "test": 85_054}
    assert splits["id"].sizes == {"train": 302_436, "val": 33_560, "test": 85_054}


@pytest.mark.parametrize(
    ("spelling", "address"), [pair for spellings in SPELLINGS.values() for pair in spellings.items()]
)
def test_every_spelling_means_one_data_set_and_split(spelling: str, address: str) -> None:
    copy = find_copy(spelling)
    assert copy is not None and copy.name == address


def test_every_mirror_gives_two_spellings_and_stays_a_source_behind_hf() -> None:
    mirrors = [(mirror, entry.name) for entry in REGISTRY.values() for mirror in entry.mirrors]
    assert len(mirrors) > 10
    for mirror, name in mirrors:
        repo = mirror.removeprefix("hf:").partition("?")[0]
        for spelling in (repo, repo.partition("/")[2]):
            copy = find_copy(spelling)
            assert copy is not None and (copy.entry.name, copy.split) == (name, copy.entry.default_split)
        assert find_copy(mirror) is None


@pytest.mark.parametrize("paper", ["rrl", "sparse", "trex"])
def test_every_target_of_the_published_tables_is_found(paper: str) -> None:
    if not PUBLISHED.is_dir():
        pytest.skip("the published tables of ../shared/published are not on this machine")
    with (PUBLISHED / f"{paper}.csv").open(encoding="utf-8", newline="") as file:
        targets = {row["target"] for row in csv.DictReader(file)}
    names = {target.split()[0] for target in targets if not target.startswith(NO_NAMES)}  # "INAT18 (384px)" -> INAT18
    assert names and not [name for name in names if find_entry(name) is None]


def test_no_spelling_means_two_data_sets() -> None:
    owners: dict[str, str] = {}
    for entry in REGISTRY.values():
        for spelling in entry.spellings:
            assert owners.setdefault(plain(spelling), entry.name) == entry.name


@pytest.mark.parametrize("name", REGISTRY)
def test_every_entry_is_whole(name: str) -> None:
    entry = REGISTRY[name]
    module, function = entry.reader.split(".")
    assert callable(getattr(import_module(f"richrep.data.sources.{module}"), function))
    assert entry.name == name and entry.num_classes >= 2 and entry.licence and entry.layout and entry.get
    assert entry.homepage.startswith("https://") and all(mirror.startswith("hf:") for mirror in entry.mirrors)
    assert entry.sizes_from and (not entry.torchvision or hasattr(torchvision.datasets, entry.torchvision))
    for info in entry.splits.values():
        assert set(info.sizes) <= {"train", "val", "test"} and "test" in info.sizes
        assert bool(entry.classes_of) == ("train" not in info.sizes)
    assert entry.needs or name in ("digits", "imagenet_v2")  # its folder depends on the split
    assert not entry.classes_of or entry.classes_of in REGISTRY


def test_an_unknown_split_gets_a_guess_and_one_where_there_are_none_an_error() -> None:
    with pytest.raises(AddressError, match=r"Unknown split of caltech101 'sparce'\. Did you mean 'sparse'\?"):
        find_copy("caltech101:sparce")
    with pytest.raises(AddressError, match=r"'Flowers:x' takes nothing after its name\. Write 'flowers102'"):
        find_copy("Flowers:x")


@pytest.mark.parametrize("address", ["imagenetv2-top-images:threshold0.7", "imagenetv2-top-images:top-images"])
def test_a_name_that_means_a_split_takes_no_other(address: str) -> None:
    with pytest.raises(AddressError, match=r"'imagenetv2-top-images' means imagenet_v2:top-images\."):
        find_copy(address)


def test_the_sizes_that_no_source_paper_states_add_up() -> None:
    cub, pacs = REGISTRY["cub200"].splits, REGISTRY["pacs"].splits
    assert all(sum(info.sizes.values()) == 11_788 for info in cub.values())
    assert all(sum(info.sizes.values()) == 9_991 for info in pacs.values())
    assert {domain: info.sizes["test"] for domain, info in pacs.items()} == {
        "photo": 1_670,
        "art_painting": 2_048,
        "cartoon": 2_344,
        "sketch": 3_929,
    }
    mini = REGISTRY["mini_imagenet"].splits["official"]
    assert mini.num_classes is not None
    assert all(size == 600 * mini.num_classes[part] for part, size in mini.sizes.items())


def test_the_document_is_what_the_registry_says() -> None:
    if not DOCUMENT.parent.is_dir():
        pytest.skip("an installed package has no docs")
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == render_datasets_markdown(), "run: python -m richrep.data.make_docs docs/datasets.md"
