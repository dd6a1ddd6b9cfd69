import errno
import logging
import threading
from pathlib import Path

import pytest

from richrep.features import entry_lock
from richrep.features.cache import FeatureCache
from richrep.features.entry_lock import hold_alone, hold_shared
from richrep.features.extract import extract_features


def try_in_a_thread(hold, path: Path) -> tuple[threading.Thread, threading.Event]:
    """A thread that takes the lock and lets it go; the event is set once it had it."""
    had = threading.Event()

    def take() -> None:
        with hold(path, title="features"):
            had.set()

    thread = threading.Thread(target=take)
    thread.start()
    return thread, had


def test_a_shared_lock_keeps_out_only_who_wants_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold_shared(path, title="features"):
        with hold_shared(path, title="features"):
            pass
        thread, had = try_in_a_thread(hold_alone, path)
        assert not had.wait(0.2)
    assert had.wait(10)
    thread.join()


def test_a_lock_held_alone_keeps_out_everybody(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold_alone(path, title="features"):
        waiting = [try_in_a_thread(hold, path) for hold in (hold_alone, hold_shared)]
        assert not any(had.wait(0.1) for _, had in waiting)
    assert all(had.wait(10) for _, had in waiting)
    for thread, _ in waiting:
        thread.join()


def test_without_shared_locks_one_writes_and_the_other_finds_it_done(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(entry_lock, "HAS_SHARED_LOCKS", False)
    cache = FeatureCache(tmp_path, block_rows=4)
    splits = [tiny.make_split(20, delay_s=0.005) for _ in range(2)]
    threads = [
        threading.Thread(target=extract_features, args=(tiny.make_backbone(), split), kwargs={"cache": cache})
        for split in splits
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sum(split.images.decoded.values()) for split in splits) == [0, 20]
    assert cache.entries()[0].complete


@pytest.mark.skipif(not entry_lock.HAS_SHARED_LOCKS, reason="the system has no flock")
def test_a_file_system_without_locks_is_said_and_used(tmp_path, caplog, monkeypatch) -> None:
    def refuse(file, operation) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(entry_lock.fcntl, "flock", refuse)
    caplog.set_level(logging.WARNING)
    with hold_shared(tmp_path / "lock", title="features"):
        pass
    assert "on a file system without locks" in caplog.text
