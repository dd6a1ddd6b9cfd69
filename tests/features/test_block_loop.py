"""What is kept of blocks when a network fails: every block that is whole, and none that is not."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

from richrep.errors import FeatureError
from richrep.features.cache import FeatureCache
from richrep.features.extract import extract_features


class FailsOnce(nn.Module):
    """Out of memory for its second batch, when the third has been computed, and never again."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self._lock, self._third = threading.Lock(), threading.Event()
        self._calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with self._lock:
            self._calls += 1
            call = self._calls
        if call == 2:
            self._third.wait(timeout=10)
            raise RuntimeError("can't allocate memory")
        if call == 3:
            self._third.set()
        return self.trunk(images)


class Infinite(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.full((len(images), 5), torch.inf)


def test_a_block_with_a_batch_that_failed_is_not_kept_though_its_last_batch_went_well(
    tiny, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # two batches at once
    backbone, split = tiny.make_backbone(), tiny.make_split(12)
    expected = extract_features(backbone, split, batch_size=4, device="cpu").features
    failing = replace(backbone, trunk=FailsOnce(backbone.trunk))
    cache = FeatureCache(tmp_path)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        extract_features(failing, split, cache=cache, batch_size=4, device="cpu")
    assert sum(entry.blocks_done for entry in cache.entries()) == 0
    again = extract_features(failing, split, cache=cache, batch_size=4, device="cpu").features
    torch.testing.assert_close(again, expected)


def test_blocks_of_the_others_are_kept_when_one_network_is_not_finite_and_the_error_names_it(tiny, tmp_path) -> None:
    cache, split = FeatureCache(tmp_path, block_rows=4), tiny.make_split(4)
    one, two = tiny.make_backbone("one"), tiny.make_backbone("two", seed=1)
    bad = replace(tiny.make_backbone("bad", seed=2), trunk=Infinite())
    with pytest.raises(FeatureError, match="'bad'") as failed:
        extract_features([bad, one, two], split, cache=cache)
    assert failed.value.backbone == "bad"
    before = split.images.decoded.copy()
    extract_features([one, two], split, cache=cache)
    assert split.images.decoded == before


def test_an_output_of_another_shape_names_its_network(tiny) -> None:
    wide = replace(tiny.make_backbone("wide", dim=6), feature_dim=5)
    with pytest.raises(FeatureError, match="have shape") as failed:
        extract_features([tiny.make_backbone("one"), wide], tiny.make_split(4))
    assert failed.value.backbone == "wide"


def test_an_error_about_no_network_names_none() -> None:
    assert FeatureError("Something is wrong.").backbone == ""
