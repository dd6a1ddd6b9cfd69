"""t-ReX's SGD probe: its schedule, its trials, its faults on request."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from richrep.errors import DivergedError
from richrep.evaluation.protocols.protocol import Choice
from richrep.evaluation.protocols.trex_sgd import TrexSgdProtocol, legacy_trex_sgd
from richrep.features.normalize import unit_rows
from richrep.heads.sgd_grid import SgdRecipe, batches_of_epoch


@pytest.mark.parametrize(("make", "late"), [(TrexSgdProtocol, 0), (legacy_trex_sgd, 1)])
def test_it_is_the_suites_loop_with_its_schedule_or_the_meant_one(pixels, make, late: int) -> None:
    """lr0·½(1 + cos(πe/100)), set before epoch e as meant, or after it as in the code (so two epochs run at lr0)."""
    features = unit_rows(pixels.features)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(linear.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-4)
    for epoch in range(100):
        if not late:
            optimizer.param_groups[0]["lr"] = 0.5 * (1 + np.cos(np.pi * epoch / 100))
        for batch in batches_of_epoch(600, SgdRecipe(batch_size=1024), seed=0, epoch=epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(linear(features[batch]), pixels.labels[batch]).backward()
            optimizer.step()
        if late:
            optimizer.param_groups[0]["lr"] = 0.5 * (1 + np.cos(np.pi * epoch / 100))
    chosen = Choice({"lr": 1.0, "weight_decay": 1e-4, "normalization": "l2"}, torch.empty(0))
    head = make().refit(pixels, chosen)
    torch.testing.assert_close(head.logits(pixels.features), linear(features).detach(), rtol=1e-3, atol=1e-3)
    assert (head.lr_factors[1], head.lr_factors[-1]) == pytest.approx(
        (1.0, 0.000987) if late else (0.999753, 0.000247), abs=1e-6
    )


def test_the_best_trial_wins_and_trials_that_diverge_are_said(pixels, parts) -> None:
    protocol = TrexSgdProtocol(trials=12, epochs=10, lr_range=(1e-2, 1e38), weight_decay_range=(1e-12, 1e-4))
    choice = protocol.select(pixels, *parts)
    assert 1e-2 <= choice.hyperparameters["lr"] < 1e18
    assert 1 <= len(choice.solver["diverged"]) < 12
    assert choice.solver["trials"] == 12
    with pytest.raises(DivergedError, match=r"SGD diverged: lr=.*; lr="):
        TrexSgdProtocol(trials=2, lr_range=(1e37, 1e38)).select(pixels, *parts)


def test_the_faults_are_on_in_the_legacy_protocol_alone() -> None:
    labels = np.repeat([0, 1, 2], [10, 2, 10])  # the class of two sets the ratio to a half
    meant, legacy = TrexSgdProtocol(), legacy_trex_sgd()
    assert [len(protocol.split(labels)[1]) for protocol in (meant, legacy)] == [2 + 1 + 2, 2 + 1 + 5]
    assert (meant.late_schedule, legacy.late_schedule) == (False, True)
    assert legacy_trex_sgd(trials=5).trials == 5
