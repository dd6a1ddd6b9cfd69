"""What torchrun says of this process, and what follows from it: which device, how many threads, who prints results.

Workers that extract need no process group: what is done and who does what lies in the cache (features/claims.py). So a
worker that dies takes nothing along but its unfinished blocks, and a restarted one (--max-restarts) goes on with what
is missing. Workers that train are one group (training/processes.py); restarted, they go on from the last state.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from richrep.errors import RichrepError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # torchrun sets all four
_SHARED_COMMANDS = ("extract", "finetune", None)
_FILL_THE_CACHE = "Fill the cache with torchrun … -m richrep extract, then run"
_INSTEAD = {
    "two-stage": "Fine-tune the members with torchrun … -m richrep finetune, whose runs it takes over, then run",
    "distill": "Run",
}
_MAX_DECODE_THREADS = 16  # as `default_num_workers`


@dataclass(frozen=True)
class Worker:
    """This process among `world_size`, of which `local_world_size` are on this machine; alone without torchrun."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def from_environment(cls) -> Worker:
        """The worker that torchrun's variables describe. Raises RichrepError when they make no sense."""
        if any(name not in os.environ for name in _VARIABLES):
            return cls()
        texts = [os.environ[name] for name in _VARIABLES]
        if not all(text.isdecimal() for text in texts):
            said = ", ".join(f"{name}={text!r}" for name, text in zip(_VARIABLES, texts, strict=True))
            raise RichrepError(f"Torchrun's variables must be numbers, got {said}. Start with torchrun, or unset them.")
        return cls(*map(int, texts))

    @property
    def prints_results(self) -> bool:
        """Whether this is the one worker that prints results and progress."""
        return self.rank == 0

    def begin_training(self) -> None:
        """Takes this worker's share of the cores; only the first worker logs what all of them do alike."""
        self.share_cores(None)
        if not self.prints_results:
            logging.getLogger("richrep").setLevel(logging.ERROR)

    def check_command(self, command: str | None) -> None:
        """Raises RichrepError for a command that several workers cannot share."""
        if self.world_size > 1 and command not in _SHARED_COMMANDS:
            raise RichrepError(
                f"richrep {command} is the work of one process, torchrun started {self.world_size}. "
                f"{_INSTEAD.get(command or '', _FILL_THE_CACHE)} richrep {command} by itself."
            )

    def choose_device(self, device: str | None) -> str | None:
        """`device`; one without a number, or none, becomes the CUDA device of this worker's number."""
        if self.world_size == 1:
            return device
        import torch

        if device is None and not torch.cuda.is_available():
            return "cpu"
        if device not in (None, "cuda"):
            return device
        count = torch.cuda.device_count()
        if self.local_rank >= count:
            raise RichrepError(
                f"Worker {self.local_rank} of this machine has no CUDA device: there are {self.local_world_size} "
                f"workers and {count} devices. Start as many as devices with --nproc-per-node, or name one --device."
            )
        return f"cuda:{self.local_rank}"

    def share_cores(self, num_workers: int | None) -> int | None:
        """Gives torch this worker's share of the cores; returns the number of decoding threads, by default as many.

        Torchrun sets OMP_NUM_THREADS to 1 when it is not set; any other value is the user's and stays.
        """
        if self.local_world_size == 1:
            return num_workers
        import torch

        from richrep.features.loop_options import available_cores

        share = max(1, available_cores() // self.local_world_size)
        if os.environ.get("OMP_NUM_THREADS", "1") == "1":
            torch.set_num_threads(share)
        return min(share, _MAX_DECODE_THREADS) if num_workers is None else num_workers
