"""Train twice with the same seed, and compare."""

from __future__ import annotations

from pathlib import Path

from faults.training import DEVICE, Outcome, Run, largest_difference


def campaign(data: Path, folder: Path) -> dict[str, Outcome]:
    """Two runs with ``deterministic: true`` and two without, on the device of the campaign.

    Survived: with the knob, and on a CPU without it too, both are equal to the last bit. On CUDA without it the largest
    relative difference is told.
    """
    rows = {}
    for deterministic in (True, False):
        runs = [Run(data, folder / f"{deterministic}_{number}", deterministic=deterministic) for number in range(2)]
        for run in runs:
            run.finish()
        gap, same = largest_difference(*runs), runs[0].weights() == runs[1].weights()
        promised = deterministic or DEVICE == "cpu"
        state = "equal" if same else "differs"
        note = f"{DEVICE}: largest relative difference of a loss {gap:.2g}, final state {state}"
        name = f"the same run twice, deterministic: {str(deterministic).lower()}"
        rows[name] = Outcome(1, int((gap == 0 and same) or not promised), note)
    return rows
