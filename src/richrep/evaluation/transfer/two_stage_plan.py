"""The runs of one two-stage fine-tuning: their names, the options that decide them, and what cannot be joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from richrep.backbones.backbone import Backbone
from richrep.errors import RichrepError
from richrep.evaluation.task import Task
from richrep.evaluation.transfer.ensemble import Ensemble
from richrep.evaluation.transfer.protocol import FinetuneProtocol
from richrep.evaluation.transfer.runs import Where, finetune_run_options, run_name
from richrep.evaluation.transfer.stage2 import Stage2Protocol
from richrep.training.run_folder import RunFolder, open_run


@dataclass(frozen=True)
class Plan:
    """The runs of one two-stage fine-tuning."""

    members: tuple[Backbone, ...]
    task: Task
    protocol: FinetuneProtocol
    seed: int
    where: Where

    @property
    def member_runs(self) -> list[str]:
        """Names of the members' runs, those that `finetune` gives them."""
        given = self.where.name
        return [
            run_name("finetune", [member], self.task, self.protocol.name, self.seed, given, i if given else None)
            for i, member in enumerate(self.members)
        ]

    def joint_run(self, stage2: Stage2Protocol) -> str:
        """Name of the run of one protocol of stage 2."""
        if self.where.name is not None:
            return f"{self.where.name}-{stage2.name}"
        words = f"{self.protocol.name}-{stage2.name}" if kind_of(stage2) != stage2.name else self.protocol.name
        return run_name(kind_of(stage2), self.members, self.task, words, self.seed, None, None)

    def joint_options(self, stage2: Stage2Protocol) -> dict[str, Any]:
        """All that the result of a run of stage 2 depends on."""
        stage1 = finetune_run_options(
            self.members, self.task, self.protocol, seed=self.seed, precision=self.where.precision
        )
        return stage1 | {"method": kind_of(stage2), "members": self.member_runs, "stage2": asdict(stage2)}

    def unfinished(self) -> dict[int, str]:
        """The members' runs that lack something, by the place of the member."""
        out = Path(self.where.out).expanduser()
        folders = {i: RunFolder(out / name) for i, name in enumerate(self.member_runs)}
        return {
            i: folder.name
            for i, folder in folders.items()
            if not folder.model.exists() or (self.protocol.refit and not folder.selected.exists())
        }

    def check(self, stage2: Sequence[Stage2Protocol]) -> None:
        """Raises RichrepError for what would fail only after stage 1."""
        if len(self.members) < 2:
            raise RichrepError("Two-stage fine-tuning joins several backbones: give at least two with -b.")
        runs = self.member_runs
        for i, name in enumerate(runs):
            if name in runs[:i]:
                raise RichrepError(
                    f"{self.members[runs.index(name)].address} and {self.members[i].address} are the same network, so "
                    "they would be one member twice. Give different ones, or --name to train it twice all the same."
                )
        different = len({member.preprocessing.geometry for member in self.members}) > 1
        if different and (names := [one.name for one in stage2 if one.trains_on_images]):
            listed = "; ".join(f"{member.name}: {member.preprocessing.describe()}" for member in self.members)
            raise RichrepError(
                f"{' and '.join(names)} trains on common random crops, but the members resize and crop differently "
                f"({listed}). Make them alike with --preprocess, or use --stage2 two-stage-logistic alone."
            )

    def begin_anew(self, stage2: Sequence[Stage2Protocol]) -> None:
        """Empties the folders of all runs."""
        for member, name in zip(self.members, self.member_runs, strict=True):
            options = finetune_run_options(
                [member], self.task, self.protocol, seed=self.seed, precision=self.where.precision
            )
            with open_run(self.where.out, name, options, restart=True):
                pass
        for one in stage2:
            with open_run(self.where.out, self.joint_run(one), self.joint_options(one), restart=True):
                pass


def kind_of(stage2: Stage2Protocol) -> str:
    """The kind of its records."""
    return "ensemble" if isinstance(stage2, Ensemble) else "two-stage"
