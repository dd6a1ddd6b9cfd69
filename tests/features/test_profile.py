from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from richrep.features.cache import FeatureCache
from richrep.features.engines.engine import Forward, Work
from richrep.features.engines.torch_engine import TorchEngine
from richrep.features.extract import extract_features
from richrep.features.profile import STEPS, ExtractionProfile


def test_shares_are_fractions_of_all_seconds() -> None:
    profile = ExtractionProfile()
    assert profile.shares == dict.fromkeys(STEPS, 0.0)
    profile.add("decode", 1.0)
    profile.add("forward", 2.0)
    profile.add("forward", 1.0)
    assert profile.shares == {"prepare": 0, "decode": 0.25, "resize": 0, "normalize": 0, "forward": 0.75, "waiting": 0}


@pytest.mark.parametrize(
    ("seconds", "verdict"),
    [
        ({}, "Nothing was computed, so nothing was measured."),
        ({"forward": 9.5, "waiting": 0.5}, "The networks are the limit: they waited 5 % of their time for images."),
        (
            {"forward": 1, "waiting": 3, "resize": 2, "decode": 1},
            "Resize starves the networks, which waited 75 % of their time for images. See --fast-resize.",
        ),
        ({"forward": 1, "waiting": 1, "resize": 2, "decode": 4}, "Decode starves the networks, which waited 50 %"),
        (
            {"forward": 68, "waiting": 17, "resize": 5, "decode": 7},
            "The networks waited 20 % of their time for images, at the start and the end: too few images",
        ),
    ],
)
def test_the_verdict_names_the_step_the_others_wait_for(seconds: dict[str, float], verdict: str) -> None:
    profile = ExtractionProfile()
    profile.seconds.update(seconds)
    assert profile.verdict.startswith(verdict)


def test_slow_decoding_shows_as_decode_and_as_waiting(tiny) -> None:
    profile = ExtractionProfile()
    split = tiny.make_split(12, delay_s=0.01)
    extract_features(tiny.make_backbone(), split, batch_size=3, num_workers=1, profile=profile)
    assert profile.seconds["decode"] >= 0.12  # twelve sleeps
    assert profile.seconds["forward"] > 0 and profile.seconds["normalize"] > 0
    assert profile.verdict.startswith("Decode starves the networks")


def test_what_comes_from_the_cache_costs_nothing(tiny, tmp_path) -> None:
    cache, profile = FeatureCache(tmp_path), ExtractionProfile()
    extract_features(tiny.make_backbone(), tiny.make_split(5), cache=cache)
    extract_features(tiny.make_backbone(), tiny.make_split(5), cache=cache, profile=profile)
    assert set(profile.seconds.values()) == {0.0}


def test_what_an_engine_takes_to_get_ready_is_a_step(tiny, monkeypatch) -> None:
    prepare = TorchEngine.prepare

    @contextlib.contextmanager
    def slowly(self: TorchEngine, work: Work) -> Iterator[Forward]:
        time.sleep(0.2)
        with prepare(self, work) as forward:
            yield forward

    monkeypatch.setattr(TorchEngine, "prepare", slowly)
    profile = ExtractionProfile()
    extract_features(tiny.make_backbone(), tiny.make_split(6), profile=profile, device="cpu")
    assert profile.seconds["prepare"] >= 0.2
