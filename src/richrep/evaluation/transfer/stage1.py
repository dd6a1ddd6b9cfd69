"""The first stage: every member fine-tuned alone, by whichever process takes it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from richrep.backbones.backbone import Backbone
from richrep.errors import DivergedError, RunBusyError
from richrep.evaluation.record import Record
from richrep.evaluation.task import Task
from richrep.evaluation.transfer.finetune import finetune_run
from richrep.evaluation.transfer.protocol import FinetuneProtocol
from richrep.evaluation.transfer.runs import Where

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

    Raises:
        DivergedError: of some members no cell gave a finite loss; said when the others are done.
    """
    records: dict[int, Record] = {}
    diverged: dict[int, str] = {}
    said = False
    while len(done := [*records, *diverged]) < len(members):
        for i, (member, name) in enumerate(zip(members, names, strict=True)):
            if i in done:
                continue
            try:
                record = finetune_run(
                    [member], task, protocol, seed=seed, where=replace(where, name=name), name=name, keep_selected=True
                )
            except RunBusyError:
                continue
            except DivergedError as error:
                diverged[i] = f"{member.name}: {error}"
                continue
            records[i] = record = record.model_copy(update={"representation": f"finetune({member.name})"})
            if on_record is not None:
                on_record(record)
        if len(records) + len(diverged) == len(done):
            if not said:
                busy = ", ".join(name for i, name in enumerate(names) if i not in done)
                logger.warning("Waiting for other processes, which train %s.", busy)
                said = True
            time.sleep(_POLL_S)
    if diverged:
        raise DivergedError(f"Stage 2 needs every member. {' '.join(diverged.values())} Or leave those out.")
    return [records[i] for i in range(len(members))]
