"""Kinds of one thing: aircraft, cars, flowers, pets, dishes, birds, species."""

from __future__ import annotations

from richrep.data.registry.entry import OFFICIAL, DatasetEntry, NamedSplit

_TREX = "the loaders of t-ReX (naver/trex)"
_INAT_LICENCE = "non-commercial research and education; every photograph has its owner's licence"


def _inaturalist(year: int, num_classes: int, train: int, test: int) -> DatasetEntry:
    folder, host = f"inat{year}", f"https://ml-inat-competition-datasets.s3.amazonaws.com/{year}"
    return DatasetEntry(
        name=f"inat{year}",
        title=f"iNaturalist {year}",
        reader="inaturalist.read",
        num_classes=num_classes,
        splits={OFFICIAL: NamedSplit({"train": train, "test": test}, rule="the official val part is test")},
        sizes_from=_TREX,
        licence=_INAT_LICENCE,
        homepage="https://github.com/visipedia/inat_comp",
        needs=(f"{folder}/train{year}.json", f"{folder}/val{year}.json"),
        layout=f"{folder}/train{year}.json, {folder}/val{year}.json, {folder}/train_val{year}/SUPER/ID/*.jpg "
        f"(or {folder}/{year}/SUPER/ID/*.jpg, as torchvision names it); the label is the category id",
        get=f"Fetch the images once with torchvision.datasets.INaturalist('DATA_ROOT/{folder}', version='{year}', "
        f"download=True), and unpack {host}/train{year}.json.tar.gz and {host}/val{year}.json.tar.gz in "
        f"DATA_ROOT/{folder}.",
        aliases=(f"inaturalist{year}", f"inaturalist{year % 100}", f"inat{year % 100}"),
    )


ENTRIES = (
    DatasetEntry(
        name="fgvc_aircraft",
        title="FGVC-Aircraft 2013b, variants",
        reader="torchvision_sets.read_fgvc_aircraft",
        num_classes=100,
        splits={OFFICIAL: NamedSplit({"train": 3_334, "val": 3_333, "test": 3_333})},
        sizes_from=_TREX,
        metric="mean_per_class_accuracy",
        licence="non-commercial research",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        needs=("fgvc-aircraft-2013b/data/images", "fgvc-aircraft-2013b/data/variants.txt"),
        layout="fgvc-aircraft-2013b/data/images/*.jpg, data/variants.txt, data/images_variant_{train,val,test}.txt",
        get="Unpack https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz (MD5 "
        "d4acdd33327262359767eeaa97a4f732) in DATA_ROOT.",
        torchvision="FGVCAircraft",
        aliases=("aircraft", "fgvc_aircraft_2013b", "HuggingFaceM4/FGVC-Aircraft"),
    ),
    DatasetEntry(
        name="stanford_cars",
        title="Stanford Cars",
        reader="torchvision_sets.read_stanford_cars",
        num_classes=196,
        splits={OFFICIAL: NamedSplit({"train": 8_144, "test": 8_041})},
        sizes_from=_TREX,
        licence="non-commercial research",
        homepage="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        needs=(
            "stanford_cars/devkit/cars_meta.mat",
            "stanford_cars/devkit/cars_train_annos.mat",
            "stanford_cars/cars_test_annos_withlabels.mat",
            "stanford_cars/cars_train",
            "stanford_cars/cars_test",
        ),
        layout="stanford_cars/devkit/{cars_meta,cars_train_annos}.mat, stanford_cars/cars_test_annos_withlabels.mat, "
        "stanford_cars/cars_train/*.jpg, stanford_cars/cars_test/*.jpg",
        get="Its host is gone. From a copy of yours, put into DATA_ROOT/stanford_cars: the folders cars_train (8,144 "
        "images) and cars_test (8,041), the folder devkit with cars_meta.mat and cars_train_annos.mat, and "
        "cars_test_annos_withlabels.mat beside devkit.",
        mirrors=("hf:tanganke/stanford_cars",),
        aliases=("cars", "cars196", "cars_new"),
    ),
    DatasetEntry(
        name="flowers102",
        title="Oxford Flowers-102",
        reader="torchvision_sets.read_flowers102",
        num_classes=102,
        splits={OFFICIAL: NamedSplit({"train": 1_020, "val": 1_020, "test": 6_149})},
        sizes_from=_TREX,
        metric="mean_per_class_accuracy",
        licence="none stated; cite Nilsback and Zisserman 2008",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        needs=("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        layout="flowers-102/jpg/image_00001.jpg …, flowers-102/{imagelabels,setid}.mat of the official MD5",
        get="Unpack 102flowers.tgz (MD5 52808999861908f626f3c1f4e79d11fa) of "
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102 in DATA_ROOT/flowers-102, and put imagelabels.mat and "
        "setid.mat of the same place beside the folder jpg.",
        torchvision="Flowers102",
        mirrors=("hf:dpdl-benchmark/oxford_flowers102",),
        aliases=("flowers", "oxford_flowers"),
    ),
    DatasetEntry(
        name="oxford_pets",
        title="Oxford-IIIT Pets, breeds",
        reader="torchvision_sets.read_oxford_pets",
        num_classes=37,
        splits={OFFICIAL: NamedSplit({"train": 3_680, "test": 3_669}, rule="the official trainval part is train")},
        sizes_from=_TREX,
        metric="mean_per_class_accuracy",
        licence="CC BY-SA 4.0",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        needs=("oxford-iiit-pet/images", "oxford-iiit-pet/annotations"),
        layout="oxford-iiit-pet/images/*.jpg, oxford-iiit-pet/annotations/{trainval,test}.txt",
        get="Unpack images.tar.gz and annotations.tar.gz of https://www.robots.ox.ac.uk/~vgg/data/pets/data in "
        "DATA_ROOT/oxford-iiit-pet.",
        torchvision="OxfordIIITPet",
        mirrors=("hf:timm/oxford-iiit-pet",),
        aliases=("pets", "pet", "oxford_iiit_pets", "oxford_pet"),
    ),
    DatasetEntry(
        name="food101",
        title="Food-101",
        reader="torchvision_sets.read_food101",
        num_classes=101,
        splits={OFFICIAL: NamedSplit({"train": 75_750, "test": 25_250})},
        sizes_from=_TREX,
        licence="research, as the photographs of foodspotting.com allow it",
        homepage="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        needs=("food-101/images", "food-101/meta"),
        layout="food-101/images/CLASS/*.jpg, food-101/meta/{train,test}.json",
        get="Unpack http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz (MD5 85eeb15f3717b99a5da872d97d918f87) in "
        "DATA_ROOT.",
        torchvision="Food101",
        mirrors=("hf:ethz/food101?test=validation",),
        aliases=("food",),
    ),
    DatasetEntry(
        name="birdsnap",
        title="Birdsnap, divided by Salman et al.",
        reader="class_folders.read_birdsnap",
        num_classes=500,
        splits={
            "sparse": NamedSplit(
                {"train": 32_677, "test": 8_171}, rule="the folders of Salman et al. 2020, not the official test list"
            )
        },
        sizes_from="the sparse transfer study (Iofinova et al. 2022)",
        licence="research; every photograph has its owner's licence",
        homepage="https://thomasberg.org/",
        needs=("birdsnap/train", "birdsnap/test"),
        layout="birdsnap/{train,test}/CLASS/*",
        get="Its photographs are no longer served. Put the folders train and test of the archive of "
        "https://github.com/microsoft/robust-models-transfer into DATA_ROOT/birdsnap.",
        aliases=("birds",),
    ),
    DatasetEntry(
        name="cub200",
        title="Caltech-UCSD Birds-200-2011",
        reader="cub200.read",
        num_classes=200,
        splits={
            OFFICIAL: NamedSplit({"train": 5_994, "test": 5_794}),
            "fewshot": NamedSplit(
                {"train": 5_885, "val": 2_950, "test": 2_953},
                rule="whole classes, as Chen et al. 2019: class i to train for even i, to val for i % 4 = 1, to test "
                "for i % 4 = 3",
                num_classes={"train": 100, "val": 50, "test": 50},
                few_shot=True,
            ),
        },
        sizes_from="Wah et al. 2011; the few-shot classes Chen et al. 2019",
        licence="non-commercial research and education",
        homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        needs=(
            "CUB_200_2011/images",
            "CUB_200_2011/images.txt",
            "CUB_200_2011/image_class_labels.txt",
            "CUB_200_2011/classes.txt",
            "CUB_200_2011/train_test_split.txt",
        ),
        layout="CUB_200_2011/images/001.Black_footed_Albatross/*.jpg …, and "
        "CUB_200_2011/{images,image_class_labels,classes,train_test_split}.txt",
        get="Its old host is gone. Unpack CUB_200_2011.tgz (MD5 97eceeb196236b17998738112f37df78) of "
        "https://data.caltech.edu/records/65de6-vp158, or of a copy of yours, in DATA_ROOT, so that the folder images "
        "and the four lists lie in DATA_ROOT/CUB_200_2011.",
        mirrors=("hf:bentrevett/caltech-ucsd-birds-200-2011",),
        aliases=("cub", "cub_200_2011", "caltech_birds2011", "CUB200-2011"),
    ),
    _inaturalist(2018, 8_142, 437_513, 24_426),
    _inaturalist(2019, 1_010, 265_213, 3_030),
)
