"""Where the time of an extraction goes, summed over threads, and which step the others wait for."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

STEPS = {
    "prepare": "the engines made ready: networks exported, compiled and checked on first images, in one thread",
    "decode": "bytes to pixels",
    "resize": "preprocessing by the decoding threads: resize, crop",
    "normalize": "preprocessing on the device: scale, subtract, divide",
    "forward": "the networks",
    "waiting": "threads of the networks without images",
}

_STARVED = 0.1  # of the time of the network's threads


class ExtractionProfile:
    """Seconds by step, of wall-clock time, summed over the threads and over every extraction it was given to.

    Where threads outnumber cores, a step's seconds include those in which another thread had the core; the shares
    stay comparable.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STEPS, 0.0)
        self._lock = threading.Lock()

    def add(self, step: str, seconds: float) -> None:
        """Counts `seconds` of `step`."""
        with self._lock:
            self.seconds[step] += seconds

    @contextlib.contextmanager
    def step(self, step: str) -> Iterator[None]:
        """Counts the time inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(step, time.perf_counter() - start)

    @contextlib.contextmanager
    def network_threads(self, count: int) -> Iterator[None]:
        """Counts as waiting what `count` threads have left of the time inside, after normalising and forward passes."""
        before, start = self._busy_s(), time.perf_counter()
        try:
            yield
        finally:
            elapsed_s = time.perf_counter() - start
            self.add("waiting", max(0.0, count * elapsed_s - (self._busy_s() - before)))

    def _busy_s(self) -> float:
        return self.seconds["normalize"] + self.seconds["forward"]

    @property
    def shares(self) -> dict[str, float]:
        """Fraction of all seconds by step; zeros when nothing was measured."""
        total = sum(self.seconds.values())
        return {step: seconds / total if total else 0.0 for step, seconds in self.seconds.items()}

    @property
    def verdict(self) -> str:
        """Which step the others wait for, as a sentence.

        >>> profile = ExtractionProfile()
        >>> profile.seconds.update(decode=8.0, forward=1.0, waiting=3.0)
        >>> profile.verdict
        'Decode starves the networks, which waited 75 % of their time for images. See --fast-decode.'
        """
        own = self._busy_s() + self.seconds["waiting"]
        if own == 0:
            return "Nothing was computed, so nothing was measured."
        waited = self.seconds["waiting"] / own
        if waited <= _STARVED:
            return f"The networks are the limit: they waited {100 * waited:.0f} % of their time for images."
        said = f"waited {100 * waited:.0f} % of their time for images"
        slower = max(("decode", "resize"), key=self.seconds.__getitem__)
        if self.seconds["decode"] + self.seconds["resize"] < max(self.seconds["waiting"], self._busy_s()) / 2:
            return f"The networks {said}, at the start and the end: too few images to fill all threads."
        return f"{slower.capitalize()} starves the networks, which {said}. See --fast-{slower}."
