"""`cli("probe", …)` runs the command line as the installed script does; small checkpoints and folders for it."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from richrep.backbones.families.cifar_resnet import CifarResNet

SHARED = Path(__file__).parents[3] / "shared" / "data"


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """Standard error without boxes and line breaks."""
        return " ".join(re.sub(r"[│╭╮╰╯─]|\x1b\[[0-9;]*m", " ", self.err).split())


Cli = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RICHREP_HOME", str(tmp_path / "home"))
    for name in ("RICHREP_DEBUG", "COLUMNS", "FORCE_COLOR", "PY_COLORS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    from richrep.cli.main import run

    logger = logging.getLogger("richrep")
    handlers, level = logger.handlers, logger.level

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["richrep", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run()
        captured = capsys.readouterr()
        code = end.value.code
        assert "Traceback" not in captured.err
        return Outcome(code if isinstance(code, int) else int(code is not None), captured.out, captured.err)

    yield call
    logger.handlers, logger.level = handlers, level


def save_resnet20(path: Path, *, seed: int = 0) -> Path:
    """A CIFAR ResNet-20 of random weights in the container of akamaster's files."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        trunk, head = CifarResNet(3), nn.Linear(64, 10)
    tensors = {**trunk.state_dict(), **head.state_dict(prefix="linear.")}
    torch.save({"state_dict": {f"module.{name}": t for name, t in tensors.items()}, "best_prec1": 0.0}, path)
    return path


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two ResNet-20 of different weights."""
    folder = tmp_path_factory.mktemp("weights")
    return save_resnet20(folder / "net_a.th", seed=0), save_resnet20(folder / "net_b.th", seed=1)


@pytest.fixture
def small(checkpoints: tuple[Path, Path]) -> list[object]:
    """Options of a probe of one network that takes a second."""
    return ["-b", checkpoints[0], "-d", "digits", "--train-size", 100, "--test-size", 50, "--normalization", "none"]


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes of 12 training and 4 test images; one training image is no image."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for label, name in enumerate(("dark", "light")):
            folder = tmp_path / "pets" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(128 * label, 128 * (label + 1), (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    (tmp_path / "pets" / "train" / "dark" / "03.png").write_bytes(b"not an image")
    return tmp_path / "pets"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets and weights beside the checkout; absent outside the project."""
    if not SHARED.is_dir():
        pytest.skip("the real data sets and weights of ../shared/data are not on this machine")
    return SHARED
