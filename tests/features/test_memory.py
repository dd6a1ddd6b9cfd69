from pathlib import Path

import pytest
import torch

from richrep.errors import RichrepError
from richrep.features.memory import FRUGAL, MemoryBudget, choose_budget, free_memory, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4e9), ("1.5GB", 1.5e9), ("500 MB", 5e8), ("64kB", 64e3), ("2TB", 2e12), ("4GiB", 2**32), ("1KiB", 1024)],
)
def test_sizes_are_read_with_their_unit(text: str, size: float) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "4", "4G", "GB", "-4GB", "0GB", "0.0MB", "4 000MB", "4GB or so", "1e9B", "nanGB", "12B"]
)
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(
        RichrepError, match=r"is no size of memory\. Give a number above 0 with its unit, such as 4GB"
    ) as e:
        parse_size(text)
    assert repr(text) in str(e.value)


def test_the_shares_of_a_limit_leave_room_beside_each_other() -> None:
    budget = MemoryBudget.of("1GB")
    # with the optimiser: kept Gram matrix and val features, rotated features, the eigenvectors' copy in float32 (a
    # seventh of what taking them apart took) and the rows in flight, ten bytes each
    together = budget.state + budget.rotated + 2 * budget.kept + budget.square / 7 + 10 * budget.chunk_values
    assert together <= 1.01e9
    assert budget.square + 2 * budget.kept <= 1e9  # before the optimiser begins
    assert budget.limit == 1e9


def test_a_limit_below_what_rows_in_flight_need_is_refused() -> None:
    with pytest.raises(RichrepError, match=r"limit of 99 MB is too small: .* need 100 MB\. Raise --memory-limit"):
        MemoryBudget.of("99MB")
    assert MemoryBudget.of(100_000_000).limit == 100_000_000


def test_the_optimiser_says_which_limit_would_do() -> None:
    budget = MemoryBudget.of("100MB")
    with pytest.raises(RichrepError, match=r"100 MB is too small: it takes 70 MB, so at least 201 MB are needed"):
        budget.check_state(70_000_000, "it")
    MemoryBudget.of("201MB").check_state(70_000_000, "it")
    FRUGAL.check_state(10**12, "it")  # nothing was said, nothing is refused


def test_without_a_limit_it_is_half_of_what_is_free_and_never_less_than_the_least() -> None:
    assert choose_budget("2GB") == MemoryBudget.of("2GB")
    assert 0.4 * free_memory() < choose_budget(None).limit < 0.6 * free_memory() or choose_budget(None).limit == 10**8


def test_on_cuda_its_memory_counts_and_features_get_what_the_limit_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("meta")  # stands for the GPU where a tensor is made; what it has free is said here

    class Device(str):
        type = "cuda"

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * 10**9, 100 * 10**9))
    monkeypatch.setattr("richrep.features.memory.torch.empty", lambda *_, device: torch.zeros(0, device=cuda))
    budget = choose_budget(None, Device("cuda"))  # type: ignore[arg-type]
    assert (budget.limit, budget.device) == (40 * 10**9, cuda)
    assert budget.resident == 32 * 10**9  # of the 40 GB that the limit leaves
    assert choose_budget("60GB", Device("cuda")).resident == 16 * 10**9  # type: ignore[arg-type]
    assert choose_budget("90GB", Device("cuda")).resident == 0  # type: ignore[arg-type]
    assert budget.chunk_values > choose_budget("40GB").chunk_values  # few rows would leave most of it idle


@pytest.mark.parametrize("device", ["cpu", "mps"])  # mps has no float64
def test_elsewhere_fits_are_where_the_features_are(device: str) -> None:
    assert choose_budget("2GB", torch.device(device)) == MemoryBudget.of("2GB")
    assert choose_budget("2GB", torch.device(device)).device is None


def test_a_container_that_allows_less_than_the_machine_has_decides(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert free_memory(tmp_path, tmp_path) == 8000 * 1024
    for name, text in {"max": "5000000", "current": "3000000", "stat": "anon 5\ninactive_file 1000000\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert free_memory(tmp_path, tmp_path) == 3_000_000  # 5 - 3, and 1 of copies of files, which are given up
    (tmp_path / "memory.max").write_text("max")
    assert free_memory(tmp_path, tmp_path) == 8000 * 1024


def test_the_older_containers_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable: 8000 kB\n")
    (tmp_path / "memory").mkdir()
    for name, text in {
        "limit_in_bytes": "5000000",
        "usage_in_bytes": "3000000",
        "stat": "total_inactive_file 7",
    }.items():
        (tmp_path / "memory" / f"memory.{name}").write_text(text)
    assert free_memory(tmp_path, tmp_path) == 2_000_007


def test_without_such_files_what_is_installed_counts(tmp_path: Path) -> None:
    assert free_memory(tmp_path, tmp_path) > 10**8
