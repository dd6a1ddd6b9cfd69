"""What follows from torchrun's variables; a real torchrun is in test_cli_extract.py."""

from __future__ import annotations

import pytest
import torch

from richrep.cli import console, torchrun
from richrep.cli.torchrun import Worker
from richrep.errors import RichrepError


@pytest.fixture
def start(monkeypatch):
    """Sets the variables as torchrun does for worker `rank` of `world_size` on one machine."""

    def set_variables(rank: object, world_size: object) -> None:
        for name, value in zip(torchrun._VARIABLES, (rank, world_size, rank, world_size), strict=True):
            monkeypatch.setenv(name, str(value))

    yield set_variables
    console.speak_as("")


def test_without_all_of_torchruns_variables_a_process_is_alone(monkeypatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")  # as other launchers set
    assert Worker.from_environment() == Worker(0, 1, 0, 1)
    assert Worker().choose_device(None) is None and Worker().share_cores(None) is None


def test_torchruns_variables_are_read(start) -> None:
    start(1, 4)
    assert Worker.from_environment() == Worker(1, 4, 1, 4)
    start("one", 4)
    with pytest.raises(RichrepError, match="must be numbers, got RANK='one', WORLD_SIZE='4'"):
        Worker.from_environment()


@pytest.mark.parametrize(
    ("asked", "given"), [(None, "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")]
)
def test_each_worker_has_the_device_of_its_number(monkeypatch, asked, given) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Worker(9, 16, 1, 8).choose_device(asked) == given


def test_more_workers_than_devices_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        RichrepError, match="Worker 2 of this machine has no CUDA device: there are 3 workers and 2 dev"
    ):
        Worker(2, 3, 2, 3).choose_device(None)


def test_without_a_device_workers_compute_on_the_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Worker(1, 2, 1, 2).choose_device(None) == "cpu"


@pytest.mark.parametrize(("cores", "threads"), [(8, 4), (3, 1), (1, 1), (100, 50)])
def test_workers_of_a_machine_divide_its_cores(monkeypatch, cores, threads) -> None:
    given = []
    monkeypatch.setattr("richrep.features.loop_options.available_cores", lambda: cores)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # torchrun's default
    worker = Worker(0, 2, 0, 2)
    assert worker.share_cores(None) == min(threads, 16) and given == [threads]
    assert worker.share_cores(0) == 0
    given.clear()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # the user's
    worker.share_cores(None)
    assert given == []


def test_commands_of_one_process_refuse_to_be_started_several_times(cli, start) -> None:
    start(1, 2)
    outcome = cli("probe", "-b", "random/resnet20", "-d", "digits")
    assert outcome.code == 2
    assert outcome.err.startswith("[worker 1] Error: richrep probe is the work of one process, torchrun started 2. ")
    assert "Fine-tune the members with torchrun" in cli("two-stage", "-b", "random/resnet20", "-d", "digits").err
    assert "Run richrep distill by itself." in cli("distill", "-b", "random/resnet20", "-d", "digits").err
    start(0, 1)
    assert "nowhere" in cli("probe", "-b", "nowhere.pth", "-d", "digits").message  # one worker may do all


def test_only_the_first_worker_prints_results_and_what_was_loaded(cli, small, start) -> None:
    command = ["extract", *small[:8], "--device", "cpu"]
    threads = torch.get_num_threads()
    try:
        start(1, 2)
        silent = cli(*command)
        start(0, 2)
        speaking = cli(*command)
    finally:
        torch.set_num_threads(threads)
    assert (silent.code, silent.out, silent.err) == (0, "", "")
    assert speaking.code == 0 and "resnet20" in speaking.out and "net_a" in speaking.err
