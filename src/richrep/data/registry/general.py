"""Objects, scenes and textures: digits, CIFAR, Caltech, DTD, EuroSAT, SUN397."""

from __future__ import annotations

from richrep.data.registry.entry import OFFICIAL, DatasetEntry, NamedSplit

_PARTITIONS = range(1, 11)  # of DTD and SUN397: ten official ones, of which papers use the first


def _sun_needs(number: int) -> tuple[str, ...]:
    return (f"SUN397/Training_{number:02d}.txt", f"SUN397/Testing_{number:02d}.txt")


_SUN_SIZES = {"train": 19_850, "test": 19_850}
_TREX, _SPARSE = "the loaders of t-ReX (naver/trex)", "the sparse transfer study (Iofinova et al. 2022)"
_CIFAR_LICENCE = "none stated; cite Krizhevsky 2009"
_CALTECH_TREX = (
    "{count} images of every class to train, the rest to test, in the order of the SHA-256 of the file name; t-ReX has "
    "no Caltech, this is its way with sets that have no official split"
)

ENTRIES = (
    DatasetEntry(
        name="digits",
        title="Optical recognition of handwritten digits (UCI), 8x8 pixels, bundled with scikit-learn",
        reader="digits.read",
        num_classes=10,
        splits={OFFICIAL: NamedSplit({"train": 1_258, "test": 539}, rule="split 70/30 per class, seed 0")},
        sizes_from="the copy in scikit-learn",
        licence="CC BY 4.0 (UCI)",
        homepage="https://archive.ics.uci.edu/dataset/80",
        layout="nothing: it comes with scikit-learn",
        get="It is bundled with scikit-learn and works offline.",
    ),
    DatasetEntry(
        name="cifar10",
        title="CIFAR-10",
        reader="torchvision_sets.read_cifar10",
        num_classes=10,
        splits={OFFICIAL: NamedSplit({"train": 50_000, "test": 10_000})},
        sizes_from="Krizhevsky 2009",
        licence=_CIFAR_LICENCE,
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        needs=("cifar-10-batches-py",),
        layout="cifar-10-batches-py/{data_batch_1 … data_batch_5, test_batch, batches.meta}, each of the official MD5",
        get="Unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz in DATA_ROOT.",
        torchvision="CIFAR10",
        mirrors=("hf:uoft-cs/cifar10",),
    ),
    DatasetEntry(
        name="cifar100",
        title="CIFAR-100, fine labels",
        reader="torchvision_sets.read_cifar100",
        num_classes=100,
        splits={OFFICIAL: NamedSplit({"train": 50_000, "test": 10_000})},
        sizes_from="Krizhevsky 2009",
        licence=_CIFAR_LICENCE,
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        needs=("cifar-100-python",),
        layout="cifar-100-python/{train, test, meta}, each of the official MD5",
        get="Unpack https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz in DATA_ROOT.",
        torchvision="CIFAR100",
        mirrors=("hf:uoft-cs/cifar100",),
    ),
    DatasetEntry(
        name="caltech101",
        title="Caltech-101 without BACKGROUND_Google",
        reader="torchvision_sets.read_caltech101",
        num_classes=101,
        splits={
            "sparse": NamedSplit(
                {"train": 3_030, "test": 5_647}, rule="the first 30 images of every class to train, the rest to test"
            ),
            "trex": NamedSplit({"train": 3_030, "test": 5_647}, rule=_CALTECH_TREX.format(count=30)),
        },
        sizes_from=_SPARSE,
        metric="mean_per_class_accuracy",
        licence="CC BY 4.0",
        homepage="https://data.caltech.edu/records/mzrjq-6wc02",
        needs=("caltech101/101_ObjectCategories",),
        layout="caltech101/101_ObjectCategories/CLASS/image_0001.jpg …, with BACKGROUND_Google beside the classes",
        get="Unpack caltech-101.zip (MD5 3138e1922a9193bfa496528edbbc45d0) of "
        "https://data.caltech.edu/records/mzrjq-6wc02, and the archive 101_ObjectCategories.tar.gz that is in it in "
        "DATA_ROOT/caltech101.",
        torchvision="Caltech101",
        mirrors=("hf:dpdl-benchmark/caltech101",),
    ),
    DatasetEntry(
        name="caltech256",
        title="Caltech-256 with the clutter class",
        reader="torchvision_sets.read_caltech256",
        num_classes=257,
        splits={
            "sparse": NamedSplit(
                {"train": 15_420, "test": 15_187}, rule="the first 60 images of every class to train, the rest to test"
            ),
            "trex": NamedSplit({"train": 15_420, "test": 15_187}, rule=_CALTECH_TREX.format(count=60)),
        },
        sizes_from=_SPARSE,
        metric="mean_per_class_accuracy",
        licence="CC BY 4.0",
        homepage="https://data.caltech.edu/records/nyy15-4j048",
        needs=("caltech256/256_ObjectCategories",),
        layout="caltech256/256_ObjectCategories/001.ak47/001_0001.jpg …",
        get="Unpack 256_ObjectCategories.tar (MD5 67b4f42ca05d46448c6bb8ecd2220f6d) of "
        "https://data.caltech.edu/records/nyy15-4j048 in DATA_ROOT/caltech256.",
        torchvision="Caltech256",
    ),
    DatasetEntry(
        name="dtd",
        title="Describable Textures",
        reader="torchvision_sets.read_dtd",
        num_classes=47,
        splits={
            f"split{number}": NamedSplit(
                {"train": 1_880, "val": 1_880, "test": 1_880}, rule=f"official partition {number} of 10"
            )
            for number in _PARTITIONS
        },
        sizes_from=_TREX,
        licence="research purposes only",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        needs=("dtd/dtd/images", "dtd/dtd/labels"),
        layout="dtd/dtd/images/CLASS/*.jpg, dtd/dtd/labels/{train,val,test}1.txt …",
        get="Unpack https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz (MD5 "
        "fff73e5086ae6bdbea199a49dfb8a4c1) in DATA_ROOT/dtd.",
        torchvision="DTD",
        mirrors=("hf:tanganke/dtd",),
        aliases=("describable_textures", "textures"),
    ),
    DatasetEntry(
        name="eurosat",
        title="EuroSAT, RGB",
        reader="torchvision_sets.read_eurosat",
        num_classes=10,
        splits={
            "trex": NamedSplit(
                {"train": 13_500, "val": 5_400, "test": 8_100},
                rule="of every class 810 images to test, 540 to val, the rest to train, in the order of the SHA-256 of "
                "the file name; the counts are t-ReX's, whose own order was drawn anew each time",
            )
        },
        sizes_from=_TREX,
        licence="MIT",
        homepage="https://github.com/phelber/EuroSAT",
        needs=("eurosat/2750",),
        layout="eurosat/2750/CLASS/*.jpg, ten folders",
        get="Unpack EuroSAT.zip (MD5 c8fa014336c82ac7804f0398fcb19387) of "
        "https://huggingface.co/datasets/torchgeo/eurosat in DATA_ROOT/eurosat.",
        torchvision="EuroSAT",
        mirrors=("hf:tanganke/eurosat",),
        aliases=("eurosat_rgb",),
    ),
    DatasetEntry(
        name="sun397",
        title="SUN397",
        reader="torchvision_sets.read_sun397",
        num_classes=397,
        splits={
            **{
                f"split{number}": NamedSplit(
                    _SUN_SIZES, rule=f"official partition {number} of 10", needs=_sun_needs(number)
                )
                for number in _PARTITIONS
            },
            "trex": NamedSplit(_SUN_SIZES, rule="split1, as t-ReX uses it", needs=_sun_needs(1)),
            "sparse": NamedSplit(_SUN_SIZES, rule="split1, as the sparse transfer study uses it", needs=_sun_needs(1)),
        },
        sizes_from=_TREX,
        licence="none stated; cite Xiao et al. 2010",
        homepage="https://vision.princeton.edu/projects/2010/SUN/",
        needs=("SUN397/ClassName.txt",),
        layout="SUN397/ClassName.txt, SUN397/a/abbey/sun_*.jpg …, SUN397/Training_01.txt and SUN397/Testing_01.txt …",
        get="Its host is gone. Put ClassName.txt and the folders a … z of SUN397.tar.gz (MD5 "
        "8ca2778205c41d23104230ba66911c7a) into DATA_ROOT/SUN397, and the lists Training_01.txt and Testing_01.txt of "
        "Partitions.zip beside ClassName.txt.",
        mirrors=("hf:tanganke/sun397",),
        aliases=("sun",),
    ),
)
