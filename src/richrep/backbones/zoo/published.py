"""What the papers published. Facts only: names, files, addresses, licences; the weights are theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from richrep.backbones.formats.trex import TRANSFER
from richrep.backbones.zoo.entry import ZooEntry

_RRL = "Rich representations (arXiv 2212.07346)"
_RRL_HOME = "linked from the README of github.com/TjuJianyu/RRL; unpack the archive"
_TIME_CAT = "time-CAT"
_TIME_CAT_ARCHIVE = (
    "https://dl.fbaipublicfiles.com/richreps-timecat/ckpt_resnet50_sfadamw_imagenet1k_supervised.tar.gz; unpack it"
)
_SWAV = "SwAV (arXiv 2006.09882)"
_SWAV_HOST = "https://dl.fbaipublicfiles.com/deepcluster"
_SEER = "SEER (arXiv 2103.01988, 2202.08360)"
_VISSL_HOST = "https://dl.fbaipublicfiles.com/vissl/model_zoo"
_SEER_LICENCE = "SEER licence of VISSL (non-commercial)"
_VIT = "ViT (arXiv 2010.11929, 2106.10270)"
_VIT_HOST = "https://storage.googleapis.com/vit_models"
_TREX = "t-ReX (arXiv 2206.15369)"
_TREX_HOST = "https://download.europe.naverlabs.com/ComputerVision/trex_models"
_SPARSE = "Sparse transfer (arXiv 2111.13445)"
_SPARSE_HOME = (
    "linked from the README of github.com/IST-DASLab/sparse-imagenet-transfer or of the method's repository, where it "
    "is public (LTH-T files are not); save it under this name"
)
_NC = "CC-BY-NC 4.0"
_UNSTATED = "not stated"


def _rich_representations() -> Iterator[ZooEntry]:
    def entry(name: str, architecture: str, dim: int, file: str) -> ZooEntry:
        return ZooEntry(f"rrl_{name}", _RRL, architecture, dim, _UNSTATED, f"rrl/{file}", _RRL_HOME, family="rrl")

    for i in range(10):
        yield entry(f"run{i}", "ResNet-50", 2048, f"resnet50/checkpoint_run{i}.pth.tar")
    for width, dim in ((2, 4096), (4, 8192)):
        file = f"resnet50w{width}_imagenet1k_supervised.pth.tar"
        yield entry(f"resnet50w{width}", f"ResNet-50, {width} times as wide", dim, file)
        for i in range(dim // 2048):
            columns, title = (2048 * i, 2048 * (i + 1)), f"Slice {i} of a ResNet-50 {width} times as wide"
            whole = (f"rrl_resnet50w{width}",)
            yield ZooEntry(f"{whole[0]}_fs{i}", _RRL, title, 2048, _UNSTATED, members=whole, columns=columns)
        file = f"{width}resnet50_imagenet1k_supervised.pth.tar"
        yield entry(f"{width}resnet50", f"{width} ResNet-50 trained as one", dim, file)
    yield entry("distill5", "ResNet-50 distilled from five", 2048, "resnet50_imagenet1k_supervised_distill5.pth.tar")
    for n in (2, 4, 5, 10):
        yield _set(f"rrl_cat{n}", _RRL, f"CAT{n}", 2048 * n, _UNSTATED, (f"rrl_run{i}" for i in range(n)))


def _time_cat() -> Iterator[ZooEntry]:
    for steps, runs in (("full", 5), ("200k", 2), ("100k", 4), ("80k", 5)):
        names = [f"timecat_{steps}_run{i}" for i in range(runs)]
        folder = f"supervised_pretrain/resnet50_sfadamw_imagenet1k_supervised/checkpoints_{steps}"
        for i, name in enumerate(names):
            file = f"{folder}/checkpoint_run{i}.pth"
            yield ZooEntry(
                name, _TIME_CAT, f"ResNet-50, {steps} steps", 2048, _NC, file, _TIME_CAT_ARCHIVE, family="time-cat"
            )
        if steps != "full":
            title = f"time-CAT of {runs} runs of {steps} steps"
            yield _set(f"timecat_{runs}x{steps}", _TIME_CAT, title, 2048 * runs, _NC, names)


def _swav() -> Iterator[ZooEntry]:
    def entry(name: str, architecture: str, dim: int, file: str, published: str) -> ZooEntry:
        return ZooEntry(name, _SWAV, architecture, dim, _NC, f"swav/{file}", published, family="swav")

    file = "swav_400ep_pretrain.pth.tar"
    yield entry("swav_resnet50", "ResNet-50", 2048, file, f"{_SWAV_HOST}/{file}")
    for width in (2, 4, 5):
        file = f"swav_RN50w{width}_400ep_pretrain.pth.tar"
        title = f"ResNet-50, {width} times as wide"
        yield entry(f"swav_resnet50w{width}", title, 2048 * width, file, f"{_SWAV_HOST}/{file}")
    for seed in (5, 6, 7, 8):
        file = f"swav_400ep_pretrain_seed{seed}.pth.tar"
        yield entry(f"swav_resnet50_run{seed + 1}", f"ResNet-50, seed {seed}", 2048, file, _RRL_HOME)
    runs = ["swav_resnet50", *(f"swav_resnet50_run{i}" for i in (6, 7, 8, 9))]
    wide = ["swav_resnet50w2", "swav_resnet50w4", "swav_resnet50w5"]
    yield _set("swav_cat2", _SWAV, "CAT2", 4096, _NC, runs[:2])
    yield _set("swav_cat5", _SWAV, "CAT5", 10240, _NC, runs)
    yield _set("swav_cat7", _SWAV, "CAT7", 22528, _NC, runs + wide[:2])
    yield _set("swav_cat8", _SWAV, "CAT8", 32768, _NC, runs + wide)


def _seer() -> Iterator[ZooEntry]:
    def entry(name: str, architecture: str, dim: int, file: str) -> ZooEntry:
        place, published = f"vissl/{file}", f"{_VISSL_HOST}/{file}"
        return ZooEntry(name, _SEER, architecture, dim, _SEER_LICENCE, place, published, family="vissl")

    pretrained = {
        32: ("seer_regnet32d", "seer_regnet32gf_model_iteration244000.torch"),
        64: ("seer_regnet64", "seer_regnet64gf_model_final_checkpoint_phase0.torch"),
        128: (
            "swav_ig1b_regnet128Gf_cnstant_bs32_node16_sinkhorn10_proto16k_syncBN64_warmup8k",
            "model_final_checkpoint_phase0.torch",
        ),
        256: (
            "swav_ig1b_cosine_rg256gf_noBNhead_wd1e5_fairstore_bs16_node64_sinkhorn10_proto16k_apex_syncBN64_warmup8k",
            "model_final_checkpoint_phase0.torch",
        ),
    }
    dims = {32: 3712, 64: 4920, 128: 7392, 256: 10444}
    for size, (folder, name) in pretrained.items():
        title, file = f"RegNetY-{size}GF", f"{folder}/{name}"
        yield entry(f"seer_{size}gf", title, dims[size], file)
    for size in pretrained:
        phase = 38 if size == 256 else 78
        file = f"seer_finetuned/seer_regnet{size}_finetuned_in1k_model_final_checkpoint_phase{phase}.torch"
        title = f"RegNetY-{size}GF fine-tuned on ImageNet-1k"
        yield entry(f"seer_{size}gf_ft", title, dims[size], file)
    for suffix in ("", "_ft"):
        for sizes in ((32, 64), (32, 64, 128), (32, 64, 128, 256)):
            members = [f"seer_{size}gf{suffix}" for size in sizes]
            name = f"seer_{'_'.join(map(str, sizes))}{suffix}"
            dim = sum(dims[size] for size in sizes)
            yield _set(name, _SEER, f"CAT{len(sizes)} of sizes", dim, _SEER_LICENCE, members)


def _vit() -> Iterator[ZooEntry]:
    sizes = {"b": ("B", 768, "aug_medium1", "lr_0.03"), "l": ("L", 1024, "aug_strong1", "lr_0.01")}
    for key, (size, dim, augmentation, rate) in sizes.items():
        stem = f"augreg/{size}_16-i21k-300ep-lr_0.001-{augmentation}-wd_0.1-do_0.0-sd_0.0"
        files = {
            f"vit_{key}16_augreg_in21k": f"{stem}.npz",
            f"vit_{key}16_augreg_in1k": f"{stem}--imagenet2012-steps_20k-{rate}-res_384.npz",
            f"vit_{key}16_in21k": f"imagenet21k/ViT-{size}_16.npz",
            f"vit_{key}16_in1k": f"imagenet21k+imagenet2012/ViT-{size}_16.npz",
        }
        for name, file in files.items():
            published = f"{_VIT_HOST}/{file}"
            yield ZooEntry(name, _VIT, f"ViT-{size}/16", dim, "Apache-2.0", f"vit/{file}", published, family="vit-npz")
    for suffix in ("augreg_in21k", "augreg_in1k", "in21k", "in1k"):
        members = (f"vit_b16_{suffix}", f"vit_l16_{suffix}")
        yield _set(f"vit_cat2_{suffix}", _VIT, "CAT2 of sizes", 1792, "Apache-2.0", members)


def _trex() -> Iterator[ZooEntry]:
    for name in ("trex", "trexstar", "trex_2", "trexstar_2"):
        title = f"ResNet-50, {'paper weights' if '_2' not in name else 'trained again with the released code'}"
        published = f"{_TREX_HOST}/{name}.pth"
        yield ZooEntry(
            name,
            _TREX,
            title,
            2048,
            "see the page of the weights",
            f"trex/{name}.pth",
            published,
            preprocessing=TRANSFER,
        )
        if name.endswith("_2"):
            file = f"{name}_checkpoint_full.pth"
            published = f"{_TREX_HOST}/{file}"
            title = "ResNet-50, whole training checkpoint"
            yield ZooEntry(
                f"{name}_full",
                _TREX,
                title,
                2048,
                "see the page of the weights",
                f"trex/{file}",
                published,
                family="trex",
            )


def _sparse() -> Iterator[ZooEntry]:
    resnets = {
        "dense": ("",),
        "acdc": ("_80", "_90", "_95", "_98"),
        "woodfisher": ("_80", "_90", "_95"),
        "str": ("_80", "_90", "_95", "_98"),
        "rigl_erk1x": ("_80", "_90", "_95"),
        "rigl_erk5x": ("_80", "_90", "_95"),
        "lth": ("_80", "_90", "_95"),
        "mfac": ("_95", "_98"),
    }
    mobilenets = {
        "dense": ("",),
        "acdc": ("_30", "_40", "_50", "_75", "_90"),
        "str": ("_75", "_90"),
        "mfac": ("_75", "_89"),
    }
    for kind, title, dim, methods in (
        ("resnet50", "ResNet-50", 2048, resnets),
        ("mobilenetv1", "MobileNetV1", 1024, mobilenets),
    ):
        for method, sparsities in methods.items():
            for sparsity in sparsities:
                words = f"{title}, {method}" + (f", {sparsity.removeprefix('_')} % pruned" if sparsity else "")
                file = f"sparse/{kind}/{method}{sparsity}.pth"
                name = f"sparse_{kind}_{method}{sparsity}"
                yield ZooEntry(name, _SPARSE, words, dim, _UNSTATED, file, _SPARSE_HOME)


def _set(name: str, paper: str, title: str, dim: int, licence: str, members: Iterable[str]) -> ZooEntry:
    return ZooEntry(name, paper, title, dim, licence, members=tuple(members))


ENTRIES: tuple[ZooEntry, ...] = (
    *_rich_representations(),
    *_time_cat(),
    *_swav(),
    *_seer(),
    *_vit(),
    *_trex(),
    *_sparse(),
)
