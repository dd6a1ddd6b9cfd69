"""Whether every image of a split can be decoded, in threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from richrep.data.split import Split
from richrep.errors import RichrepError

_BLOCK = 64  # images per thread task, and per call of `progress`


def find_bad_images(
    split: Split, *, num_workers: int | None = None, progress: Callable[[int], None] | None = None
) -> list[str]:
    """What is wrong with every image of `split` that cannot be decoded, in the order of the split; [] when all can.

    Args:
        num_workers: threads; None means a few more than there are cores.
        progress: called in this thread with the number of images done since its last call.
    """

    def problems_of(start: int) -> list[str]:
        rows = range(start, min(start + _BLOCK, len(split)))
        return [problem for row in rows if (problem := _problem_of(split, row))]

    bad = []
    starts = range(0, len(split), _BLOCK)
    with ThreadPoolExecutor(None if num_workers is None else max(num_workers, 1)) as pool:
        for start, problems in zip(starts, pool.map(problems_of, starts), strict=True):
            bad += problems
            if progress is not None:
                progress(min(_BLOCK, len(split) - start))
    return bad


def _problem_of(split: Split, row: int) -> str:
    try:
        split.load_image(row)
    except RichrepError as error:
        return str(error)
    return ""
