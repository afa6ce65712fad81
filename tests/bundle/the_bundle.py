"""The real bundle, and how its tests run it."""

import subprocess
import sys
from pathlib import Path

import yaml

from ctpa_vqgan.__main__ import main

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "bundles/ctpa_vqgan/configs"
REAL_CT = ROOT.parent / "shared/data/TS-pulmonary_ct_cropped.nii.gz"

# without the parts of an evaluation that take minutes
QUICK = [f"--set={knob}" for knob in ("compared_cases=0", "shift_cases=0", "phantoms=false", "pictured_cases=1")]


def run(*arguments):
    return main([str(argument) for argument in arguments])


def monai_bundle(folder, run_id, *arguments):
    """``python -m monai.bundle run`` in a process of its own, from an unrelated folder."""
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def config(name):
    return yaml.safe_load((CONFIGS / name).read_text())


def knob_lines(name):
    text = (CONFIGS / name).read_text()
    return text[text.index("# ---- where") : text.index("# ---- networks")]
