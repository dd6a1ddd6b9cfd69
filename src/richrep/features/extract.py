"""Backbones x split -> features, from the cache where they are already there."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np
import torch

from richrep.backbones.backbone import Backbone
from richrep.data.split import Split
from richrep.errors import BadImageError, FeatureError
from richrep.features.batches import OnBadImage
from richrep.features.block_loop import LoopOptions, Task, fill_sinks
from richrep.features.cache import FeatureCache
from richrep.features.feature_set import Block, FeatureSet, SkippedImage
from richrep.features.loop_options import make_options
from richrep.features.manifest import Layer, Manifest, Precision, Request, make_manifest
from richrep.features.profile import ExtractionProfile
from richrep.features.progress import ProgressCallback, ProgressMeter
from richrep.features.shards import Shard
from richrep.features.sink import BlockSink, MemorySink
from richrep.features.views import Views

logger = logging.getLogger(__name__)


@overload
def extract_features(
    backbones: Backbone,
    split: Split,
    *,
    cache: FeatureCache | None = ...,
    views: Views | None = ...,
    layer: Layer = ...,
    batch_size: int | None = ...,
    device: str | torch.device | None = ...,
    num_workers: int | None = ...,
    on_bad_image: OnBadImage = ...,
    engine: str = ...,
    precision: Precision = ...,
    fast_decode: bool = ...,
    fast_resize: bool = ...,
    profile: ExtractionProfile | None = ...,
    progress: ProgressCallback | None = ...,
) -> FeatureSet: ...


@overload
def extract_features(
    backbones: Sequence[Backbone],
    split: Split,
    *,
    cache: FeatureCache | None = ...,
    views: Views | None = ...,
    layer: Layer = ...,
    batch_size: int | None = ...,
    device: str | torch.device | None = ...,
    num_workers: int | None = ...,
    on_bad_image: OnBadImage = ...,
    engine: str = ...,
    precision: Precision = ...,
    fast_decode: bool = ...,
    fast_resize: bool = ...,
    profile: ExtractionProfile | None = ...,
    progress: ProgressCallback | None = ...,
) -> list[FeatureSet]: ...


def extract_features(
    backbones: Backbone | Sequence[Backbone],
    split: Split,
    *,
    cache: FeatureCache | None = None,
    views: Views | None = None,
    layer: Layer = "features",
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    num_workers: int | None = None,
    on_bad_image: OnBadImage = "stop",
    engine: str = "torch",
    precision: Precision = "fp32",
    fast_decode: bool = False,
    fast_resize: bool = False,
    profile: ExtractionProfile | None = None,
    progress: ProgressCallback | None = None,
) -> FeatureSet | list[FeatureSet]:
    """Features of every image of `split`, in the order of the split, under one backbone or several.

    Several backbones cost one pass over the images: each is decoded once, resized once for each geometry and normalised
    once for each preprocessing; backbones of equal weights and preprocessing are computed once. The networks run in
    evaluation mode; afterwards their modules are as they were (training flags, device, memory layout). So `batch_size`,
    `device`, `num_workers` and `engine` change speed, and values only by rounding. On the CPU several threads call a
    network at once, each with a batch of its own, so its `forward` must not keep state (with hooks it is one thread).

    Args:
        backbones: one backbone, or several.
        split: N labelled images.
        cache: where finished blocks of rows are kept and looked for; None keeps them in memory only. Processes that
            extract the same into one cache share the work.
        views: also the features of V random views of every image, in `FeatureSet.views`; each is an entry of the cache
            of its own. All networks are shown the same crops.
        layer: "features", or "logits" of the backbone's own head (`extract_layers` gives both from one pass).
        batch_size: images per forward pass; None chooses by device and image size.
        device: where the networks run; None means CUDA when there is one, else the CPU.
        num_workers: threads that decode images while the networks run; 0 decodes in between. None chooses.
        on_bad_image: "stop" raises at the first image that cannot be decoded, "skip" leaves such images out and lists
            them in `FeatureSet.skipped`.
        engine: a key of ENGINES, or "auto": for each backbone the fastest of torch, openvino and onnxruntime that is
            installed and close enough. All but "torch" in fp32 are held against that on the first images, and refused
            beyond TOLERANCES[precision].
        precision: "fp32", or "bf16" or "fp16" products; part of the key.
        fast_decode: decode JPEGs no larger than the network needs; part of the key (`richrep.data.decode`). Views are
            cut from the whole image all the same.
        fast_resize: resize by torch on the device, in place of Pillow; part of the key, and so is whether in bytes (on
            the CPU) or in float32 (`richrep.data.preprocessing.Resizing`). Views are Pillow's all the same.
        profile: collects where the time goes.
        progress: called after every batch and block, in this thread.

    Returns:
        For one backbone a FeatureSet: features (N, D) on the CPU, float32, or what the cache stores and then mapped
        from disk; labels (N,) int64. For several a list of them, in the same order.

    Raises:
        BadImageError: an image cannot be decoded, now or when a cached block was made, and `on_bad_image` is "stop".
        EngineError: the engine is unknown, not installed, cannot run a backbone, or not closely enough.
        FeatureError: a backbone gives another shape than it states, a value that is not finite or too large for the
            float16 of the cache, or has no such layer.
        CacheError: the cache cannot be written.
        RichrepError: the device is not there, or a number is out of range.
    """
    several = [backbones] if isinstance(backbones, Backbone) else list(backbones)
    feature_sets = extract_layers(
        [Request(backbone, layer) for backbone in several],
        split,
        cache=cache,
        views=views,
        batch_size=batch_size,
        device=device,
        num_workers=num_workers,
        on_bad_image=on_bad_image,
        engine=engine,
        precision=precision,
        fast_decode=fast_decode,
        fast_resize=fast_resize,
        profile=profile,
        progress=progress,
    )
    return feature_sets[0] if isinstance(backbones, Backbone) else feature_sets


def extract_layers(
    requests: Sequence[Request],
    split: Split,
    *,
    cache: FeatureCache | None = None,
    views: Views | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    num_workers: int | None = None,
    on_bad_image: OnBadImage = "stop",
    engine: str = "torch",
    precision: Precision = "fp32",
    fast_decode: bool = False,
    fast_resize: bool = False,
    profile: ExtractionProfile | None = None,
    progress: ProgressCallback | None = None,
) -> list[FeatureSet]:
    """As `extract_features`, for any mix of backbones and layers: one FeatureSet a request, in the same order.

    Features and own-head logits of one backbone come from one forward pass:
    ``extract_layers([Request(b), Request(b, "logits")], split)``. Views are of features; logits have none.
    """
    wanted = [one for request in requests for one in with_views(request, views)]
    options = make_options(
        wanted,
        batch_size=batch_size,
        device=device,
        num_workers=num_workers,
        on_bad_image=on_bad_image,
        engine=engine,
        precision=precision,
        fast_decode=fast_decode,
        fast_resize=fast_resize,
        profile=profile,
    )
    with filled_sinks(wanted, split, cache, options, Shard(), progress) as (sinks, used):
        found = (
            _feature_set(request, sink, split, used=used.get(sink.manifest.key, ""))
            for request, sink in zip(wanted, sinks, strict=True)
        )
        return [_joined([next(found) for _ in with_views(request, views)], views) for request in requests]


def with_views(request: Request, views: Views | None) -> list[Request]:
    """The request, and after it one for each of its views; logits have none."""
    numbered = views.numbered() if views is not None and request.layer == "features" else ()
    return [request, *(replace(request, view=view) for view in numbered)]


@contextlib.contextmanager
def filled_sinks(
    requests: Sequence[Request],
    split: Split,
    cache: FeatureCache | None,
    options: LoopOptions,
    shard: Shard,
    progress: ProgressCallback | None,
) -> Iterator[tuple[list[BlockSink], dict[str, str]]]:
    """A sink for each request, in the same order, which has the blocks of the shard; engines used, by key."""
    # Hashing the images comes here: the key is part of the result, also without a cache.
    kept: dict[str, Any] = {} if cache is None else {"block_rows": cache.block_rows, "store": cache.store}
    decides: dict[str, Any] = {"precision": options.precision, "fast_decode": options.fast_decode}
    decides["resizing"] = options.resizing
    manifests = [make_manifest(request, split, **kept, **decides) for request in requests]
    wanted: dict[str, tuple[Request, Manifest]] = {}
    for request, manifest in zip(requests, manifests, strict=True):
        wanted.setdefault(manifest.key, (request, manifest))  # equal requests are computed once
    with _open_sinks([manifest for _, manifest in wanted.values()], cache) as sinks:
        tasks = [Task(request, sinks[key]) for key, (request, _) in wanted.items()]
        _check_known_bad_images(tasks, split, options)
        blocks = shard.blocks(manifests[0].num_blocks)
        images = sum(len(manifests[0].block_range(block)) for block in blocks)
        meter = ProgressMeter(progress, images=images, blocks=len(blocks))
        used = fill_sinks(tasks, split, options, meter, blocks=blocks)
        _check_known_bad_images(tasks, split, options)  # another worker may have skipped some meanwhile
        _warn_of_skipped_images(tasks, split)
        engines = {task.sink.manifest.key: engine for task, engine in used.items()}
        yield [sinks[manifest.key] for manifest in manifests], engines


@contextlib.contextmanager
def _open_sinks(manifests: Sequence[Manifest], cache: FeatureCache | None) -> Iterator[dict[str, BlockSink]]:
    if cache is None:
        yield {manifest.key: MemorySink(manifest) for manifest in manifests}
        return
    with cache.open(manifests) as entries:
        yield {entry.manifest.key: entry for entry in entries}


def _check_known_bad_images(tasks: Sequence[Task], split: Split, options: LoopOptions) -> None:
    for task in tasks if options.on_bad_image == "stop" else ():
        for row, reason in sorted(task.sink.skipped().items()):
            raise BadImageError(
                f"Image {row} of {split.dataset}/{split.part} ({split.image_name(row)}) could not be decoded by an "
                f"earlier run: {reason} Repair or remove it, or leave such images out with --on-bad-image skip."
            )


def _warn_of_skipped_images(tasks: Sequence[Task], split: Split) -> None:
    rows = sorted({row for task in tasks for row in task.sink.skipped()})
    if rows:
        names = ", ".join(split.image_name(row) for row in rows[:5]) + (", …" if len(rows) > 5 else "")
        logger.warning(
            "%d images of %s/%s were skipped, they cannot be decoded: %s.", len(rows), split.dataset, split.part, names
        )


def _joined(found: list[FeatureSet], views: Views | None) -> FeatureSet:
    """The first as it is, the others as its views; the key says so."""
    features, *others = found
    if not others:
        return features
    for other in others:
        if [image.row for image in other.skipped] != [image.row for image in features.skipped]:
            raise FeatureError(
                f"Of {features.blocks[0].name!r} {len(features.skipped)} images were skipped, of a view of them "
                f"{len(other.skipped)}: an image was there for one and not for the other. Clear both from the cache "
                "(richrep cache clear) and extract them again."
            )
    key = hashlib.sha256(("views " + " ".join(one.key for one in found)).encode()).hexdigest()
    engine = "+".join(sorted({name for one in found for name in one.engine.split("+") if name}))
    return replace(features, views=tuple(one.features for one in others), drawn=views, key=key, engine=engine)


def _feature_set(request: Request, sink: BlockSink, split: Split, *, used: str) -> FeatureSet:
    """The finished sink as a FeatureSet; costs a copy only where images were skipped.

    `used` is the engine of this run, "" when it computed nothing.
    """
    manifest, skipped = sink.manifest, sink.skipped()
    features, labels = sink.features(), torch.from_numpy(split.labels.astype(np.int64))
    if skipped:
        kept = torch.ones(len(split), dtype=torch.bool)
        kept[list(skipped)] = False
        features, labels = features[kept], labels[kept]
    return FeatureSet(
        features=features,
        labels=labels,
        num_classes=split.num_classes,
        blocks=(Block(request.backbone.name, 0, manifest.dim),),
        key=manifest.key,
        skipped=tuple(SkippedImage(row, split.image_name(row), skipped[row]) for row in sorted(skipped)),
        images=manifest.images,
        engine="+".join(name if name == used else f"{name} (cached)" for name in sink.engines()),
    )
