"""Where and with what a number was made."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import monai
import torch

import ctpa_vqgan


def facts(device: torch.device | str = "cpu") -> dict[str, str]:
    """Command, versions, commit, hardware and date, for a report."""
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "commit": commit(),
        "versions": f"ctpa_vqgan {ctpa_vqgan.__version__}, torch {torch.__version__}, monai {monai.__version__}, "
        f"Python {platform.python_version()}",
        "hardware": hardware(device),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def commit() -> str:
    """Commit of the source tree that the package runs from, with ``+`` for uncommitted changes."""
    root = Path(ctpa_vqgan.__file__).parent
    try:
        text = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
    return text


def hardware(device: torch.device | str = "cpu") -> str:
    """The device if it is a GPU, and the CPU model with the cores at hand."""
    cores = f"{len(os.sched_getaffinity(0))} cores"
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    gpu = f"{torch.cuda.get_device_name(device)}, " if torch.device(device).type == "cuda" else ""
    return f"{gpu}{model}, {cores}"
