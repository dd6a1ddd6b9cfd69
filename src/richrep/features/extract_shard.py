"""One job of a job array: backbones x some blocks of a split -> the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from richrep.backbones.backbone import Backbone
from richrep.data.split import Split
from richrep.features.batches import OnBadImage
from richrep.features.cache import FeatureCache
from richrep.features.extract import filled_sinks, with_views
from richrep.features.loop_options import make_options
from richrep.features.manifest import Precision, Request
from richrep.features.profile import ExtractionProfile
from richrep.features.progress import ProgressCallback
from richrep.features.shards import Shard
from richrep.features.views import Views


@dataclass(frozen=True)
class ShardReport:
    """What is in an entry after a shard: its key and D, blocks of this shard, blocks done by all, blocks in all."""

    key: str
    dim: int
    blocks_here: int
    blocks_done: int
    blocks_total: int


def extract_shard(
    backbones: Sequence[Backbone],
    split: Split,
    *,
    shard: Shard,
    cache: FeatureCache,
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
) -> list[ShardReport]:
    """Computes the blocks of `shard` only, into the cache: one job of an array of jobs that share its folder.

    Afterwards `extract_features` finds what all shards have finished, and computes the rest. The other arguments are
    those of `extract_features`; one report a backbone, in the same order, and after each those of its views.
    """
    requests = [one for backbone in backbones for one in with_views(Request(backbone), views)]
    options = make_options(
        requests,
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
    with filled_sinks(requests, split, cache, options, shard, progress) as (sinks, _):
        return [
            ShardReport(
                key=sink.manifest.key,
                dim=sink.manifest.dim,
                blocks_here=len(shard.blocks(sink.manifest.num_blocks)),
                blocks_done=int(sink.done().sum()),
                blocks_total=sink.manifest.num_blocks,
            )
            for sink in sinks
        ]
