"""Which engine is picked, and what is refused; the engines here are torch with a fault."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator

import pytest
import torch

from richrep.errors import EngineError
from richrep.features.cache import FeatureCache
from richrep.features.engines import ENGINES, choose
from richrep.features.engines.choose import TOLERANCES, check_engine, relative_error
from richrep.features.engines.engine import Forward, Work
from richrep.features.extract import extract_features, extract_layers
from richrep.features.feature_set import concat_features
from richrep.features.manifest import Precision, Request

CPU = torch.device("cpu")


class FaultyEngine:
    """torch, with every value multiplied by `factor`, `delay_s` slower; or with a problem."""

    description = "for tests"

    def __init__(
        self, name: str, *, factor: float = 1.0, delay_s: float = 0.0, problem: str = "", refuses: str = ""
    ) -> None:
        self.name, self._factor, self._delay_s = name, factor, delay_s
        self._problem, self._refuses = problem, refuses

    def problem(self, device: torch.device, precision: Precision) -> str:
        return self._problem

    @contextlib.contextmanager
    def prepare(self, work: Work) -> Iterator[Forward]:
        if self._refuses:
            raise EngineError(self._refuses)
        with ENGINES["torch"].prepare(work) as forward:

            def slowed(images: torch.Tensor) -> dict:
                time.sleep(self._delay_s)
                return {layer: values * self._factor for layer, values in forward(images).items()}

            yield slowed


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch):
    """Puts faulty engines in the place of the real ones; torch waits, so that any of them may be the fastest."""

    def replace_engines(**engines: FaultyEngine) -> None:
        for name, engine in engines.items():
            monkeypatch.setitem(ENGINES, name, engine)

    return replace_engines


def absent(name: str) -> FaultyEngine:
    return FaultyEngine(name, problem=f"no {name} here.")


@pytest.fixture
def slow_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = type(ENGINES["torch"]).prepare

    @contextlib.contextmanager
    def slowly(self, work: Work) -> Iterator[Forward]:
        with prepare(self, work) as forward:
            yield lambda images: (time.sleep(0.01), forward(images))[1]

    monkeypatch.setattr(type(ENGINES["torch"]), "prepare", slowly)


class QuickEngine(FaultyEngine):
    """Not slowed by `slow_torch`: gives what torch gave when it was made."""

    def __init__(self, name: str, features: torch.Tensor, *, factor: float = 1.0, delay_s: float = 0.0) -> None:
        super().__init__(name, delay_s=delay_s)
        self._features = features * factor

    @contextlib.contextmanager
    def prepare(self, work: Work) -> Iterator[Forward]:
        def given(images: torch.Tensor) -> dict:
            time.sleep(self._delay_s)
            return {"features": self._features[: len(images)]}

        yield given


@pytest.fixture
def features(tiny) -> torch.Tensor:
    return extract_features(tiny.make_backbone(), tiny.make_split(6)).features


@pytest.mark.parametrize(("slower", "faster"), [("openvino", "onnxruntime"), ("onnxruntime", "openvino")])
def test_auto_takes_the_fastest_that_is_there_and_close(
    slower, faster, tiny, engines, features, slow_torch, caplog
) -> None:
    caplog.set_level(logging.INFO)
    engines(**{faster: QuickEngine(faster, features), slower: QuickEngine(slower, features, delay_s=0.004)})
    assert extract_features(tiny.make_backbone(), tiny.make_split(6), engine="auto").engine == faster
    assert f"tiny: engine {faster}, fp32, relative error 0.0e+00." in caplog.text
    assert f"tiny: engine {faster}, fp32, the fastest: 0.0" in caplog.text
    choose._FOUND.clear()
    engines(**{faster: absent(faster)})
    assert extract_features(tiny.make_backbone(), tiny.make_split(6), engine="auto").engine == slower


def test_what_auto_found_stays_for_the_next_images(tiny, engines, features, slow_torch) -> None:
    engines(openvino=QuickEngine("openvino", features), onnxruntime=absent("onnxruntime"))
    assert extract_features(tiny.make_backbone(), tiny.make_split(6), engine="auto").engine == "openvino"
    engines(openvino=QuickEngine("openvino", features, delay_s=0.05))  # now slower than torch
    assert extract_features(tiny.make_backbone(), tiny.make_split(6), engine="auto").engine == "openvino"


@pytest.fixture(autouse=True)
def nothing_found_before() -> None:
    choose._FOUND.clear()


def test_auto_leaves_out_what_is_not_close_and_says_so(tiny, engines, features, slow_torch, caplog) -> None:
    caplog.set_level(logging.INFO)
    engines(openvino=QuickEngine("openvino", features, factor=1.001), onnxruntime=absent("onnxruntime"))
    got = extract_features(tiny.make_backbone(), tiny.make_split(6), engine="auto")
    assert got.engine == "torch" and torch.equal(got.features, features)
    assert "tiny: not openvino. 'tiny' in fp32 with the engine openvino is 1.0e-03 from float32" in caplog.text


def test_auto_leaves_out_what_is_slower_than_torch(tiny, engines, caplog) -> None:
    caplog.set_level(logging.INFO)
    engines(openvino=FaultyEngine("openvino", delay_s=0.05), onnxruntime=absent("onnxruntime"))
    assert extract_features(tiny.make_backbone(), tiny.make_split(6), engine="auto").engine == "torch"
    assert "tiny: not openvino. A batch takes" in caplog.text


def test_auto_goes_on_when_an_engine_cannot_run_a_network(tiny, engines, caplog) -> None:
    caplog.set_level(logging.INFO)
    engines(openvino=FaultyEngine("openvino", refuses="It has loops."), onnxruntime=absent("onnxruntime"))
    assert extract_features(tiny.make_backbone(), tiny.make_split(6), engine="auto").engine == "torch"
    assert "tiny: not openvino. It has loops." in caplog.text


def test_an_engine_asked_for_is_refused_with_numbers_when_it_is_not_close(tiny, engines, tmp_path) -> None:
    engines(openvino=FaultyEngine("openvino", factor=1.0003))
    cache = FeatureCache(tmp_path)
    with pytest.raises(EngineError, match=r"'tiny' in fp32 .* openvino is 3.0e-04 from float32 .* than the 1e-04"):
        extract_features(tiny.make_backbone(), tiny.make_split(6), engine="openvino", cache=cache)
    engines(openvino=FaultyEngine("openvino", factor=1.00003))
    got = extract_features(tiny.make_backbone(), tiny.make_split(6), engine="openvino", cache=cache)
    assert got.engine == "openvino"


def test_values_that_are_not_finite_are_never_close(tiny, engines) -> None:
    engines(openvino=FaultyEngine("openvino", factor=float("nan")))
    with pytest.raises(EngineError, match="is inf from float32"):
        extract_features(tiny.make_backbone(), tiny.make_split(6), engine="openvino")


def test_where_there_is_nothing_to_compare_the_log_says_so_instead_of_an_error_of_zero(tiny, engines, caplog) -> None:
    caplog.set_level(logging.INFO)
    engines(openvino=FaultyEngine("openvino"))
    backbone = tiny.make_backbone()
    backbone.trunk.norm.bias.data.fill_(-100.0)  # the ReLU after it leaves zeros
    assert not extract_features(backbone, tiny.make_split(6), engine="openvino").features.any()
    assert "tiny: engine openvino, fp32, not checked: nothing to compare, torch in float32 gives" in caplog.text
    assert "relative error" not in caplog.text


def test_the_logits_are_checked_too(tiny, engines) -> None:
    class OffLogits(FaultyEngine):
        @contextlib.contextmanager
        def prepare(self, work: Work) -> Iterator[Forward]:
            with ENGINES["torch"].prepare(work) as forward:
                yield lambda images: {k: v * (1.01 if k == "logits" else 1.0) for k, v in forward(images).items()}

    engines(openvino=OffLogits("openvino"))
    backbone = tiny.make_backbone(num_classes=3)
    assert extract_features(backbone, tiny.make_split(4), engine="openvino").engine == "openvino"
    with pytest.raises(EngineError, match=r"is 1.0e-02 from float32"):
        extract_layers([Request(backbone), Request(backbone, "logits")], tiny.make_split(4), engine="openvino")


def test_a_precision_that_costs_too_much_is_refused_for_torch_too(tiny, monkeypatch) -> None:
    monkeypatch.setitem(TOLERANCES, "bf16", 1e-6)
    with pytest.raises(EngineError, match=r"'tiny' in bf16 with the engine torch is .*Use --precision fp32"):
        extract_features(tiny.make_backbone(), tiny.make_split(6), precision="bf16")


def test_an_image_that_cannot_be_decoded_does_not_count_in_the_check(tiny, engines) -> None:
    engines(openvino=FaultyEngine("openvino"))
    split = tiny.make_split(6)
    split.images.bad = {0}
    assert len(extract_features(tiny.make_backbone(), split, engine="openvino", on_bad_image="skip")) == 5


def test_members_that_share_modules_are_all_in_the_wanted_precision(tiny) -> None:
    from richrep.backbones.concat import concat

    a, b, split = tiny.make_backbone(seed=1), tiny.make_backbone(seed=2), tiny.make_split(6)
    alone = [extract_features(backbone, split, precision="bf16").features for backbone in (a, b)]
    both, first = extract_features([concat(a, b), a], split, precision="bf16")
    torch.testing.assert_close(both.features, torch.cat(alone, dim=1))
    torch.testing.assert_close(first.features, alone[0])
    assert a.trunk.conv.weight.dtype == torch.float32


def test_what_the_cache_holds_is_used_whatever_the_engine(tiny, engines, tmp_path) -> None:
    split, cache = tiny.make_split(6), FeatureCache(tmp_path)
    stored = extract_features(tiny.make_backbone(), split, cache=cache)
    engines(openvino=FaultyEngine("openvino", refuses="must not be asked"))
    again = extract_features(tiny.make_backbone(), split, cache=cache, engine="openvino")
    assert again.key == stored.key and again.engine == "torch (cached)"
    assert torch.equal(again.features, stored.features)


def test_relative_error_by_hand() -> None:
    reference = torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0], [torch.nan, 1.0]])
    features = torch.tensor([[3.0, 4.5], [0.0, 2.0], [9.0, 9.0], [5.0, 5.0]])
    # 0.5 / 5 = 0.1 and 0; a row of zeros and one that is not finite have no relative error
    assert relative_error(features, reference) == pytest.approx(0.05)
    assert relative_error(torch.full((4, 2), torch.inf), reference) == torch.inf
    assert math.isnan(relative_error(features[2:], reference[2:]))


def test_unknown_names_are_named_with_the_nearest() -> None:
    with pytest.raises(EngineError, match=r"Unknown engine 'openvin'. Did you mean 'openvino'\? Known: auto, "):
        check_engine("openvin", "fp32", CPU)
    with pytest.raises(EngineError, match=r"Unknown precision 'fp61'. Did you mean 'fp16'\?"):
        check_engine("torch", "fp61", CPU)


def test_an_engine_that_cannot_run_here_is_refused_before_any_image_is_read(tiny) -> None:
    split = tiny.make_split(3)
    with pytest.raises(EngineError, match="fp16 on processors several times slower"):
        extract_features(tiny.make_backbone(), split, precision="fp16", device="cpu")
    with pytest.raises(EngineError, match="onnxruntime engine computes in fp32, not in bf16"):
        extract_features(tiny.make_backbone(), split, precision="bf16", engine="onnxruntime", device="cpu")
    assert not split.images.decoded


def test_auto_says_why_no_engine_has_a_precision(engines) -> None:
    engines(openvino=absent("openvino"))
    with pytest.raises(EngineError, match=r"No engine computes fp16 here. PyTorch computes fp16 .* no openvino here"):
        check_engine("auto", "fp16", CPU)


def test_the_engines_of_an_entry_stay_with_it_and_are_no_part_of_its_key(tiny, engines, tmp_path) -> None:
    engines(openvino=FaultyEngine("openvino"))
    split, cache = tiny.make_split(6), FeatureCache(tmp_path, block_rows=2)
    split.images.broken = {4}  # the last of three blocks
    with pytest.raises(RuntimeError, match="the disk fails at 4"):
        extract_features(tiny.make_backbone(), split, cache=cache, engine="openvino", batch_size=1, num_workers=0)
    split.images.broken = set()
    mixed = extract_features(tiny.make_backbone(), split, cache=cache)
    assert mixed.engine == "openvino (cached)+torch"
    again = extract_features(tiny.make_backbone(), split, cache=cache, engine="openvino")
    assert again.engine == "openvino (cached)+torch (cached)" and again.key == mixed.key
    (folder,) = (file.parent for file in tmp_path.glob("??/*/manifest.json"))
    for file in folder.glob("engine-*"):
        file.unlink()  # as an earlier release left it
    assert extract_features(tiny.make_backbone(), split, cache=cache).engine == ""


def test_features_side_by_side_name_the_engines_of_all(tiny, engines) -> None:
    engines(openvino=FaultyEngine("openvino"))
    split = tiny.make_split(6)
    members = [extract_features(tiny.make_backbone(), split, engine=engine) for engine in ("torch", "openvino")]
    assert concat_features(members).engine == "openvino+torch"
