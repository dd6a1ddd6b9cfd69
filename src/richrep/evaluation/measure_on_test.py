"""One measurement that is chosen on the test set: the twins of LEGACY_TEST_SELECTION, and nothing else, come here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from richrep.backbones.backbone import Backbone
from richrep.evaluation.measure import Outcome, elapsed, make_probe_record
from richrep.evaluation.metrics import score
from richrep.evaluation.protocols.draw import Draw, DrawingProtocol
from richrep.evaluation.protocols.legacy_test_selection import LegacyTestSelection
from richrep.evaluation.repeats import over_draws
from richrep.evaluation.task import TaskFeatures
from richrep.features.feature_set import FeatureSet
from richrep.features.forward import full_float32
from richrep.features.memory import MemoryBudget


def measure_chosen_on_test(
    backbones: Sequence[Backbone],
    trainval: FeatureSet,
    test: FeatureSet,
    features: TaskFeatures,
    twin: LegacyTestSelection,
    memory: MemoryBudget,
    common: dict[str, Any],
) -> Outcome:
    """Fit every candidate on train and val (or on what a draw holds of them), and report the best on test.

    The record has no val scores, and says why.

    Raises:
        TypeError: `twin` is none: an ordinary protocol never sees test.
    """
    if not isinstance(twin, LegacyTestSelection):
        raise TypeError(f"only a LegacyTestSelection may choose on test, got {type(twin).__name__}. Use measure_probe.")

    def measure_one(fitted: FeatureSet, common: dict[str, Any]) -> Outcome:
        start = time.perf_counter()
        with full_float32():
            choice = twin.base.choose(fitted.on(memory), test.on(memory, by_block=True), memory=memory)
        logits = choice.val_logits.cpu()
        record = make_probe_record(
            backbones,
            trainval,
            twin.options(),
            choice,
            metrics={"test": score(logits, test.labels, test.num_classes)},
            elapsed_s=elapsed(features.elapsed_s, time.perf_counter() - start, 0.0),
            common=common,
        )
        return Outcome(record, logits.argmax(1) == test.labels, {"test": (logits, test.labels)})

    if not isinstance(twin.base, DrawingProtocol):
        return measure_one(trainval, common)

    def measure_draw(draw: Draw) -> Outcome:
        facts = common["dataset"].model_copy(update={"num_train": len(draw.fit_rows)})
        return measure_one(trainval.take(draw.fit_rows), common | {"dataset": facts})

    return over_draws(twin.base, features, measure_draw, seed=common["seed"], num_test=len(test))
