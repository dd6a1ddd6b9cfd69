"""What a search found, as records: test is scored here, after every choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from richrep.backbones.backbone import Backbone
from richrep.evaluation.ensemble import mean_logits
from richrep.evaluation.facts import backbone_facts
from richrep.evaluation.measure import representation_name
from richrep.evaluation.metrics import bootstrap_interval, paired_bootstrap_interval, score
from richrep.evaluation.record import Record
from richrep.evaluation.search.found import Found
from richrep.evaluation.search.importance import block_importance, sizes_per_image
from richrep.evaluation.search.proxy import PENALTIES, SUBSAMPLE_SEED
from richrep.evaluation.search.scales import unit_factors
from richrep.evaluation.search.strategies import Scored, Subset
from richrep.evaluation.task import TaskFeatures


def make_records(
    found: Found, features: TaskFeatures, options: dict[str, Any], common: dict[str, Any]
) -> Iterator[Record]:
    """The controls that differ from the chosen subset, then the chosen subset, each when it is scored: see `search`."""
    writer = _Writer(found, features, options, common)
    probes, chosen = found.probes, found.chosen
    singles = [(i,) for i in range(len(features.backbones))]
    (best,) = Scored(probes.val_accuracy, found.scored.dims).best(singles)
    everything = tuple(range(len(features.backbones)))
    others = {name: s for name, s in {"best_member": best, "all": everything}.items() if s != chosen}
    yield from (writer.of_probe(subset) for subset in others.values())
    gains = writer.gains({name: probes.score(subset).test_logits for name, subset in others.items()})
    gains["best_member"] = representation_name([features.backbones[i] for i in best])
    if len(chosen) > 1:
        test_logits = mean_logits([probes.score((i,)).test_logits for i in chosen])
        yield writer.of_ensemble(test_logits)
        gains |= writer.gains({"ensemble": test_logits})
    yield writer.of_search(gains)


@dataclass(frozen=True, eq=False)
class _Writer:
    """What the records of one search have in common."""

    found: Found
    features: TaskFeatures
    options: dict[str, Any]
    common: dict[str, Any]

    def of_probe(self, subset: Subset) -> Record:
        """The full probe of one subset."""
        probes = self.found.probes
        chosen, fitted = probes.kept(subset), probes.score(subset)
        return self._record(
            kind="probe",
            representation=representation_name(self._members(subset)),
            subset=subset,
            hyperparameters=self._hyperparameters(subset),
            solver=chosen.solver,
            logits=(probes.val_logits(subset), fitted.test_logits),
            steps={"select": chosen.elapsed_s, "fit": fitted.elapsed_s},
        )

    def _members(self, subset: Subset) -> list[Backbone]:
        return [self.features.backbones[i] for i in subset]

    def _hyperparameters(self, subset: Subset) -> dict[str, Any]:
        best = self.found.probes.known(subset).best
        return {"l2": best.l2, "normalization": best.normalization}

    def of_ensemble(self, test_logits: torch.Tensor) -> Record:
        """The mean of the chosen members' own probes' logits."""
        probes, subset = self.found.probes, self.found.chosen
        names = "+".join(self.features.backbones[i].name for i in subset)
        alone = [(i,) for i in subset]
        return self._record(
            kind="ensemble",
            representation=f"ensemble({names})",
            subset=subset,
            hyperparameters={"l2": [probes.known(one).best.l2 for one in alone]},
            logits=(mean_logits([probes.val_logits(one) for one in alone]), test_logits),
            steps={
                "select": sum(probes.known(one).elapsed_s for one in alone),
                "fit": sum(probes.score(one).elapsed_s for one in alone),
            },
        )

    def of_search(self, gains: dict[str, Any]) -> Record:
        """The chosen subset, with how it was found."""
        probes, chosen = self.found.probes, self.found.chosen
        return self._record(
            kind="search",
            representation=representation_name(self._members(chosen)),
            subset=chosen,
            hyperparameters=self._hyperparameters(chosen),
            solver=probes.kept(chosen).solver,
            logits=(probes.val_logits(chosen), probes.score(chosen).test_logits),
            steps={
                "search": self.found.search_s,
                "select": sum(probed.elapsed_s for probed in probes.probed.values()) + probes.quick_s,
                "fit": probes.score(chosen).elapsed_s,
            },
            gains=gains,
            search=self._details(),
        )

    def gains(self, others: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Test accuracy of the chosen subset minus that of others, by their test logits, with paired intervals."""
        test = self.features.test[0]
        own = self.found.probes.score(self.found.chosen).test_logits.argmax(1) == test.labels
        found: dict[str, Any] = {}
        for name, logits in others.items():
            other = logits.argmax(1) == test.labels
            found[f"gain_over_{name}"] = float(own.double().mean() - other.double().mean())
            found[f"gain_over_{name}_ci95"] = list(paired_bootstrap_interval(own, other))
        return found

    def _record(
        self,
        *,
        kind: str,
        representation: str,
        subset: Subset,
        hyperparameters: dict[str, Any],
        logits: tuple[torch.Tensor, torch.Tensor],
        steps: dict[str, float],
        solver: dict[str, Any] | None = None,
        gains: dict[str, Any] | None = None,
        search: dict[str, Any] | None = None,
    ) -> Record:
        members = self._members(subset)
        val_labels, test = self.found.probes.val_labels, self.features.test[0]
        elapsed_s = {"extract": self.features.elapsed_s} | steps
        elapsed_s["total"] = sum(elapsed_s.values())
        return Record(
            kind=kind,
            representation=representation,
            backbones=tuple(backbone_facts(b, b.name) for b in members),
            feature_dim=sum(b.feature_dim for b in members),
            protocol=self.options,
            hyperparameters=hyperparameters,
            solver=solver or {},
            metrics={
                "val": score(logits[0], val_labels, test.num_classes),
                "test": score(logits[1], test.labels, test.num_classes) | (gains or {}),
            },
            elapsed_s={name: round(value, 3) for name, value in elapsed_s.items()},
            search=search or {},
            **self.common,
        )

    def _details(self) -> dict[str, Any]:
        """The `search` field of the record, plain data."""
        found, backbones = self.found, self.features.backbones
        proxy = found.proxy
        return {
            "members": [b.name for b in backbones],
            "chosen": list(found.chosen),
            "num_scored": len(found.scored.values),
            "proxy": {
                "side": proxy.side,
                "score_by": proxy.score_by,
                "num_train": proxy.num_rows,
                "num_val": proxy.num_val,
                "subsample_seed": SUBSAMPLE_SEED,
                "dims": proxy.dims,
                "penalties_over_trace": PENALTIES,
            },
            "path": [self._step(subset, before) for before, subset in pairwise([(), *found.path])],
            "shortlist": [self._step(subset, ()) for subset in found.extra],
            "cka": [[round(value, 6) for value in row] for row in proxy.grams.cka().tolist()],
            "chosen_members": self._chosen_members(),
            "scales": self._scales(),
            "note": "The val accuracy of the best of many subsets is optimistic; test was scored after the choice.",
        }

    def _step(self, subset: Subset, before: Subset) -> dict[str, Any]:
        """One row of the path: what the subset costs, and what it scores on val against the one `before` it."""
        probes, backbones = self.found.probes, [self.features.backbones[i] for i in subset]
        correct = probes.val_correct(subset)
        step = {
            "members": list(subset),
            "joined": sorted(set(subset) - set(before)),
            "left": sorted(set(before) - set(subset)),
            "feature_dim": sum(b.feature_dim for b in backbones),
            "parameters": trunk_parameters(backbones),
            "proxy_val": self.found.scored.values[subset],
            "val": float(correct.double().mean()),
            "val_ci95": bootstrap_interval(correct),
        }
        if before:
            earlier = probes.val_correct(before)
            step["gain"] = float(correct.double().mean() - earlier.double().mean())
            step["gain_ci95"] = paired_bootstrap_interval(correct, earlier)
        return step

    def _chosen_members(self) -> list[dict[str, Any]]:
        """For each chosen member the importance of its block, and what the full probe loses on val without it."""
        found, chosen = self.found, self.found.chosen
        head = found.probes.score(chosen).head
        trainval, normalization = [self.features.trainval[i] for i in chosen], head.normalization_
        weights = head.weight_
        if normalization.folds:
            sizes = [1 / unit for unit in unit_factors(trainval, self.features.train_rows)]
        else:
            together = normalization.name.partition("+")[0] == "l2"
            sizes = sizes_per_image(trainval, self.features.train_rows, together=together)
            weights = normalization.on_columns(weights)
        importances = block_importance(weights, normalization.blocks, sizes=sizes)
        rows = []
        for i, importance in zip(chosen, importances, strict=True):
            rest = tuple(j for j in chosen if j != i)
            gain = found.probes.val_accuracy(chosen) - found.probes.val_accuracy(rest) if rest else None
            rows.append({"member": i, "importance": importance, "marginal_gain": gain})
        return rows

    def _scales(self) -> dict[str, Any] | None:
        """Whether learned scales beat the subset, on val and on test."""
        soft, probes = self.found.soft, self.found.probes
        if soft is None:
            return None
        val = soft.probes.val_correct((0,)), probes.val_correct(self.found.chosen)
        labels = self.features.test[0].labels
        logits = soft.probes.score((0,)).test_logits, probes.score(self.found.chosen).test_logits
        test = [one.argmax(1) == labels for one in logits]
        found: dict[str, Any] = {"scales": soft.scales, "proxy_val": soft.proxy_accuracy}
        for part, (own, other) in (("val", val), ("test", test)):
            found[part] = float(own.double().mean())
            found[f"{part}_gain_over_subset"] = float(own.double().mean() - other.double().mean())
            found[f"{part}_gain_over_subset_ci95"] = paired_bootstrap_interval(own, other)
        return found


def trunk_parameters(backbones: Sequence[Backbone]) -> int:
    """Parameters of the trunks together; what members share (layers of one network) counts once."""
    return sum({id(p): p.numel() for b in backbones for p in b.trunk.parameters()}.values())
