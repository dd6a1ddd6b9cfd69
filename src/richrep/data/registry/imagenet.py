"""ImageNet, what is cut out of it, and other images of its classes."""

from __future__ import annotations

from richrep.data.registry.entry import OFFICIAL, DatasetEntry, NamedSplit

_TREX = "the loaders of t-ReX (naver/trex)"
_TERMS = "ImageNet terms: non-commercial research"
_COG_TRAIN_SIZES = (1_118_804, 1_115_788, 1_095_203, 1_107_128, 1_091_654)  # levels 1 to 5
_COG_HOST = "http://download.europe.naverlabs.com/ComputerVision"
_V2_HOST = "https://huggingface.co/datasets/vaishaal/ImageNetV2"
_V2_FOLDERS = {
    "matched-frequency": "imagenetv2-matched-frequency-format-val",
    "threshold0.7": "imagenetv2-threshold0.7-format-val",
    "top-images": "imagenetv2-top-images-format-val",
}


def _cog(level: int, train: int) -> DatasetEntry:
    return DatasetEntry(
        name=f"imagenet_cog_l{level}",
        title=f"ImageNet-CoG level {level}",
        reader="imagenet.read_cog",
        num_classes=1000,
        splits={OFFICIAL: NamedSplit({"train": train, "test": 50_000})},
        sizes_from=_TREX,
        licence=f"{_TERMS}; the lists BSD-3-Clause",
        homepage="https://github.com/naver/cog",
        needs=("imagenet21k/cog_levels_mapping_file.pkl", "imagenet21k/cog_concepts_split_file.pkl"),
        layout="imagenet21k/WNID/*.JPEG (the Winter 2021 release), imagenet21k/cog_levels_mapping_file.pkl and "
        "imagenet21k/cog_concepts_split_file.pkl; the lists are read without running code in them",
        get="Unpack ImageNet-21k (Winter 2021, https://image-net.org, after registration), a folder per class, in "
        f"DATA_ROOT/imagenet21k, and put {_COG_HOST}/cog_levels_mapping_file.pkl and "
        f"{_COG_HOST}/cog_concepts_split_file.pkl beside the class folders.",
        aliases=(f"cog_l{level}", f"imagenet_cog{level}", f"CoG L{level}"),
    )


def _shift(
    name: str,
    title: str,
    folder: str,
    *,
    images: int,
    classes: int,
    sizes_from: str,
    homepage: str,
    get: str,
    aliases: tuple[str, ...],
) -> DatasetEntry:
    return DatasetEntry(
        name=name,
        title=title,
        reader="imagenet.read_shift",
        num_classes=1000,
        splits={OFFICIAL: NamedSplit({"test": images}, num_classes={"test": classes})},
        sizes_from=sizes_from,
        licence="code MIT; images of others, research",
        homepage=homepage,
        needs=(folder,),
        layout=f"{folder}/WNID/*, {classes} folders named as in ImageNet",
        get=get,
        aliases=aliases,
        classes_of="imagenet1k",
    )


ENTRIES = (
    DatasetEntry(
        name="imagenet1k",
        title="ImageNet-1k (ILSVRC 2012)",
        reader="imagenet.read_imagenet1k",
        num_classes=1000,
        splits={OFFICIAL: NamedSplit({"train": 1_281_167, "test": 50_000}, rule="the official val part is test")},
        sizes_from=_TREX,
        licence=_TERMS,
        homepage="https://image-net.org/challenges/LSVRC/2012/",
        needs=("imagenet/train", "imagenet/val"),
        layout="imagenet/{train,val}/WNID/*.JPEG",
        get="Get ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz from "
        "https://image-net.org (after registration) into DATA_ROOT/imagenet; "
        "torchvision.datasets.ImageNet('DATA_ROOT/imagenet', split='train') and split='val' check and unpack them.",
        mirrors=("hf:ILSVRC/imagenet-1k?test=validation",),
        aliases=("imagenet", "in1k", "ilsvrc2012", "imagenet2012"),
    ),
    *(_cog(level, train) for level, train in enumerate(_COG_TRAIN_SIZES, start=1)),
    DatasetEntry(
        name="mini_imagenet",
        title="miniImageNet, classes of Ravi and Larochelle",
        reader="mini_imagenet.read",
        num_classes=100,
        splits={
            OFFICIAL: NamedSplit(
                {"train": 38_400, "val": 9_600, "test": 12_000},
                num_classes={"train": 64, "val": 16, "test": 20},
                few_shot=True,
            )
        },
        sizes_from="Ravi and Larochelle 2017",
        licence=_TERMS,
        homepage="https://github.com/twitter-research/meta-learning-lstm",
        needs=(
            "mini_imagenet/images",
            "mini_imagenet/train.csv",
            "mini_imagenet/val.csv",
            "mini_imagenet/test.csv",
        ),
        layout="mini_imagenet/images/*.jpg, mini_imagenet/{train,val,test}.csv with the columns filename and label",
        get="Put the 60,000 images (n0153282900000005.jpg …, cut out of ImageNet-1k) into "
        "DATA_ROOT/mini_imagenet/images, and train.csv, val.csv and test.csv of the folder data/miniImagenet of "
        "https://github.com/twitter-research/meta-learning-lstm into DATA_ROOT/mini_imagenet.",
        aliases=("miniimagenet",),
    ),
    DatasetEntry(
        name="imagenet_v2",
        title="ImageNet-V2",
        reader="imagenet.read_shift",
        num_classes=1000,
        splits={
            name: NamedSplit(
                {"test": 10_000},
                rule=f"the {name} images",
                needs=(folder,),
                aliases=(f"imagenetv2-{name}", folder),
            )
            for name, folder in _V2_FOLDERS.items()
        },
        sizes_from="Recht et al. 2019",
        licence="code MIT; images of others, research",
        homepage="https://github.com/modestyachts/ImageNetV2",
        layout="imagenetv2-matched-frequency-format-val/0 … 999/*.jpeg, folders named by ImageNet's class number; the "
        "other splits likewise",
        get=f"Unpack imagenetv2-matched-frequency.tar.gz (or -threshold0.7, -top-images) of {_V2_HOST} in DATA_ROOT.",
        aliases=("vaishaal/ImageNetV2",),
        classes_of="imagenet1k",
    ),
    _shift(
        "imagenet_r",
        "ImageNet-R(endition)",
        "imagenet-r",
        images=30_000,
        classes=200,
        sizes_from="Hendrycks et al. 2021, The Many Faces of Robustness",
        homepage="https://github.com/hendrycks/imagenet-r",
        get="Unpack https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar in DATA_ROOT.",
        aliases=("imagenet-rendition", "axiong/imagenet-r"),
    ),
    _shift(
        "imagenet_a",
        "ImageNet-A(dversarial)",
        "imagenet-a",
        images=7_500,
        classes=200,
        sizes_from="Hendrycks et al. 2021, Natural Adversarial Examples",
        homepage="https://github.com/hendrycks/natural-adv-examples",
        get="Unpack https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar in DATA_ROOT.",
        aliases=("imagenet-adversarial", "barkermrl/imagenet-a"),
    ),
    _shift(
        "imagenet_sketch",
        "ImageNet-Sketch",
        "sketch",
        images=50_889,
        classes=1000,
        sizes_from="timm's results-sketch.csv, whose scores are fractions of 50,889; Wang et al. 2019 state 50 a class",
        homepage="https://github.com/HaohanWang/ImageNet-Sketch",
        get="Unpack ImageNet-Sketch.zip of https://huggingface.co/datasets/songweig/imagenet_sketch in DATA_ROOT, so "
        "that DATA_ROOT/sketch holds the 1,000 class folders.",
        aliases=("songweig/imagenet_sketch",),
    ),
)
