"""The first stage: every member fine-tuned alone, by whichever process takes it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from richrep.backbones.backbone import Backbone
from richrep.errors import RunBusyError
from richrep.evaluation.record import Record
from richrep.evaluation.task import Task
from richrep.evaluation.transfer.finetune import Where, finetune_run
from richrep.evaluation.transfer.protocol import FinetuneProtocol

logger = logging.getLogger(__name__)

_POLL_S = 2.0


def finetune_members(
    members: Sequence[Backbone],
    names: Sequence[str],
    task: Task,
    protocol: FinetuneProtocol,
    *,
    seed: int,
    where: Where,
    on_record: Callable[[Record], None] | None = None,
) -> list[Record]:
    """The records of the members' fine-tuning runs, in order; each run also keeps what val chose, for stage 2.

    A finished run gives its record again, under the name that the member has here (trained by itself, "resnet20" may
    be "resnet20:seed1" among others). One that another process is at work on is left to it, and looked at again
    when all others are done.

    Args:
        names: of the runs.
    """
    records: dict[int, Record] = {}
    said = False
    while len(records) < len(members):
        before = len(records)
        for i, (member, name) in enumerate(zip(members, names, strict=True)):
            if i in records:
                continue
            try:
                record = finetune_run(
                    [member], task, protocol, seed=seed, where=replace(where, name=name), name=name, keep_selected=True
                )
            except RunBusyError:
                continue
            records[i] = record = record.model_copy(update={"representation": f"finetune({member.name})"})
            if on_record is not None:
                on_record(record)
        if len(records) == before:
            if not said:
                busy = ", ".join(name for i, name in enumerate(names) if i not in records)
                logger.warning("Waiting for other processes, which train %s.", busy)
                said = True
            time.sleep(_POLL_S)
    return [records[i] for i in range(len(members))]
