"""Runs extractions in processes of their own, for the tests that kill them or let them compete.

Imports torch once, then forks: one request on stdin (a JSON list of jobs) runs its jobs at the same time and gives one
line on stdout (a JSON list of results). A job: {"root", "names", "size", "delay_s"}, and it may have "bad" positions, a
"file_limit" in bytes, "kill_after_s", and "wait_for_entry": begin when another job has made one. A result: {"signal",
"decoded", "error"}.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import torch
from conftest import make_backbone, make_split

from richrep.errors import RichrepError
from richrep.features.cache import FeatureCache
from richrep.features.extract import extract_features

BLOCK_ROWS = 4


def extract(job: dict) -> dict:
    torch.set_num_threads(1)
    while "wait_for_entry" in job and not list(Path(job["root"]).glob("??/*/manifest.json")):
        time.sleep(0.005)
    if "file_limit" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_limit"], job["file_limit"]))
    split = make_split(job["size"], delay_s=job["delay_s"])
    split.images.bad = set(job.get("bad", []))
    backbones = [make_backbone(name, seed=sum(name.encode())) for name in job["names"]]
    cache = FeatureCache(job["root"], block_rows=BLOCK_ROWS)
    error = ""
    try:
        extract_features(backbones, split, cache=cache, batch_size=4, num_workers=1, on_bad_image="skip")
    except RichrepError as raised:
        error = str(raised)
    return {"decoded": sum(split.images.decoded.values()), "error": error}


def start(job: dict) -> tuple[int, int]:
    """Process id and the pipe its result comes through."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writing, json.dumps(extract(job)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    return child, reading


def finish(child: int, reading: int, kill_at_s: float | None) -> dict:
    if kill_at_s is not None:
        time.sleep(max(0.0, kill_at_s - time.monotonic()))
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading) as pipe:
        result = pipe.read()
    _, status = os.waitpid(child, 0)
    died_of = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return {"signal": died_of, **json.loads(result or '{"decoded": 0, "error": ""}')}


def main() -> None:
    for line in sys.stdin:
        jobs = json.loads(line)
        started = [(*start(job), time.monotonic()) for job in jobs]
        results = [
            finish(child, reading, begun + job["kill_after_s"] if "kill_after_s" in job else None)
            for (child, reading, begun), job in zip(started, jobs, strict=True)
        ]
        print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
