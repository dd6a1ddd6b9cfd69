"""The environment a number was measured in: versions, device, processor. Importing this does not import torch."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@cache
def richrep_version() -> str:
    """Version of the installed richrep; "not installed" when it runs from a bare source folder."""
    try:
        return version("richrep")
    except PackageNotFoundError:
        return "not installed"


def describe_environment(device: str = "cpu") -> dict[str, Any]:
    """What a reader needs to judge times and rounding: versions, device, threads, platform, processor.

    Names no host, user or path. `device` is as torch writes it, e.g. "cpu" or "cuda:0".
    """
    import torch  # here, so that reading records stays fast

    facts: dict[str, Any] = {
        "richrep": richrep_version(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": device,
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
    }
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        facts["device_name"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda or torch.version.hip
    return facts


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the system tells it, or its architecture where it tells none."""
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), flags=re.MULTILINE)
    except OSError:  # not Linux
        named = None
    return named.group(1).strip() if named else platform.processor() or platform.machine()
