"""t-ReX's L-BFGS probe against scikit-learn at the same C."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from richrep.evaluation.protocols.trex_lbfgs import TrexLbfgsProtocol, legacy_trex_lbfgs


def test_the_chosen_c_gives_scikit_learns_probabilities_before_and_after_the_refit(pixels, parts) -> None:
    protocol = TrexLbfgsProtocol(trials=12, c_range=(1e-3, 1e1))
    choice = protocol.select(pixels, *parts)
    model = LogisticRegression(C=choice.hyperparameters["c"], max_iter=2000, tol=1e-6)
    for rows, logits in (
        (parts[0], choice.val_logits),
        (np.arange(600), protocol.refit(pixels, choice).logits(pixels.features[parts[1]])),
    ):
        model.fit(pixels.features[rows].double().numpy(), pixels.labels[rows].numpy())
        expected = torch.from_numpy(model.predict_proba(pixels.features[parts[1]].double().numpy()))
        torch.testing.assert_close(logits.softmax(1).double(), expected, rtol=0, atol=5e-3)


def test_the_leak_is_on_in_the_legacy_protocol_alone() -> None:
    labels = np.repeat([0, 1, 2], [10, 2, 10])
    sizes = [len(protocol.split(labels)[1]) for protocol in (TrexLbfgsProtocol(), legacy_trex_lbfgs())]
    assert sizes == [2 + 1 + 2, 2 + 1 + 5]
