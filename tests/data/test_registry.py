from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

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
SPELLINGS = {
    "torchvision": "CIFAR10 CIFAR100 Caltech101 Caltech256 DTD EuroSAT FGVCAircraft Flowers102 Food101 OxfordIIITPet "
    "StanfordCars SUN397 ImageNet",
    "t-ReX": "in1k cog_l1 cog_l2 cog_l3 cog_l4 cog_l5 aircraft cars196 dtd eurosat flowers pets food101 sun397 "
    "inat2018 inat2019",
    "RRL": "imagenet1k cifar10 cifar100 inaturalist18 imagenetv2 imagenetsketch imagenetr imageneta camelyon17",
    "sparse": "SUN aircraft birds caltech101 caltech256 cars cifar10 cifar100 dtd food101 pets flowers",
    "Hugging Face": "uoft-cs/cifar10 ethz/food101 ILSVRC/imagenet-1k oxford-iiit-pet oxford_flowers102 stanford_cars",
}


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


@pytest.mark.parametrize("paper", SPELLINGS)
def test_the_spellings_of_every_paper_and_library_are_found(paper: str) -> None:
    for name in SPELLINGS[paper].split():
        assert find_entry(name) is not None, name


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("Oxford-IIIT Pet", "oxford_pets"),
        ("INaturalist2018", "inat2018"),
        ("mini-ImageNet", "mini_imagenet"),
        ("ImageNet-V2", "imagenet_v2"),
        ("CUB-200-2011", "cub200"),
        ("FLOWERS-102", "flowers102"),
        ("Camelyon17-WILDS", "camelyon17"),
        ("sun 397", "sun397"),
    ],
)
def test_case_dashes_underscores_and_spaces_do_not_matter(spelling: str, name: str) -> None:
    found = find_entry(spelling)
    assert found is not None and found.name == name


def test_no_spelling_means_two_data_sets() -> None:
    owners: dict[str, str] = {}
    for entry in REGISTRY.values():
        for spelling in (entry.name, *entry.aliases):
            assert owners.setdefault(plain(spelling), entry.name) == entry.name


@pytest.mark.parametrize("name", REGISTRY)
def test_every_entry_is_whole(name: str) -> None:
    entry = REGISTRY[name]
    module, function = entry.reader.split(".")
    assert callable(getattr(import_module(f"richrep.data.sources.{module}"), function))
    assert entry.name == name and entry.num_classes >= 2 and entry.licence and entry.layout and entry.get
    assert entry.homepage.startswith("https://") and all(mirror.startswith("hf:") for mirror in entry.mirrors)
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


def test_the_document_is_what_the_registry_says() -> None:
    if not DOCUMENT.parent.is_dir():
        pytest.skip("an installed package has no docs")
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == render_datasets_markdown(), "run: python -m richrep.data.make_docs docs/datasets.md"
