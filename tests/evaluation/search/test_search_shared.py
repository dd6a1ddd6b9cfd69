"""The search against all 255 subsets of 8 real members, each probed in full."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from richrep.backbones.addresses import load_backbone
from richrep.backbones.layers import with_layers
from richrep.backbones.names import distinct_names
from richrep.data.datasets import load_dataset
from richrep.data.split import carve_val
from richrep.evaluation.search.probes import Probes
from richrep.evaluation.search.proxy import make_proxy
from richrep.evaluation.search.shortlist import probe_shortlist
from richrep.evaluation.search.strategies import Scored, greedy
from richrep.features.extract import extract_features
from richrep.features.feature_set import FeatureSet

SHARED = Path(__file__).parents[4] / "shared" / "data"


def real_members(num_rows: int) -> list[FeatureSet]:
    """Four ResNet-20 trained on CIFAR-10 and an inner layer of each, on their own task with JPEG artefacts."""
    files = sorted((SHARED / "weights").glob("resnet20_A_*"))
    backbones = [load_backbone(str(file)) for file in files]
    backbones = [replace(b, name=name) for b, name in zip(backbones, distinct_names(backbones), strict=True)]
    backbones = with_layers(backbones, ["layer2"])
    return extract_features(backbones, load_dataset(f"parquet:{SHARED / 'cifar10'}").train.first(num_rows))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets and weights are not on this machine")
def test_the_chosen_subset_is_within_a_third_of_a_point_of_exhaustive_search() -> None:
    members = real_members(800)
    train, val = carve_val(members[0].labels.numpy(), fraction=0.5, seed=0)
    probes = Probes(members, (), train, val, cs=(0.03,), normalizations=("block-rms",))
    best = max(
        probes.val_accuracy(subset) for size in range(1, 9) for subset in combinations(range(len(members)), size)
    )
    scored = Scored(make_proxy(members, train, val).score, [member.feature_dim for member in members])
    greedy(scored, max_members=8, beam_width=1)
    full = Scored(probes.val_accuracy, scored.dims)
    probe_shortlist(scored, full, probes.at_least, max_members=8, shortlist=8)
    assert len(members) == 8 and len(probes.probed) == 255
    assert len(full.values) < 64  # of 255
    assert max(full.values.values()) >= best - 0.003
