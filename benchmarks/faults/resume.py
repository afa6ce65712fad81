"""Kill trainings at random moments, start them again, and compare all that they computed with one left alone."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from faults.training import Outcome, Run, differences, draws, ended_within, kill, tally, wait

# what a run may differ in, so that the campaign sees all of it
VARIANTS = (
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 1, "patch_sampling": "grid", "stride": [24, 24, 12]},
    {"num_workers": 0, "micro_batch_size": 2, "quantizer": "residual"},
    {"num_workers": 2, "precision": "bf16"},
    {"num_workers": 0, "patch_sampling": "grid", "normalize_codes": True},
    {"num_workers": 0, "quantizer": "fsq", "fsq_levels": [4, 4], "embedding_dim": 2},
)


def campaign(data: Path, folder: Path, runs: int, kills: int, seed: int = 0) -> Outcome:
    """Runs of every variant in turn, each killed with SIGKILL ``kills`` times before it may end.

    Args:
        data: of :func:`~faults.training.make_data`.
        folder: for the runs.
        runs: how many.
        kills: of each.
        seed: of the moments.

    Returns:
        Kills put in; those of runs that came out bit for bit.
    """
    draw, references = draws(seed), {}
    injected, survived, phases, failures = 0, 0, [], []
    for number in range(runs):
        variant = number % len(VARIANTS)
        if variant not in references:
            reference = Run(data, folder / f"reference_{variant}", **VARIANTS[variant])
            began = time.monotonic()
            reference.finish()
            references[variant] = reference, time.monotonic() - began
        reference, seconds = references[variant]
        run = Run(data, folder / f"run_{number}", **VARIANTS[variant])
        done = 0
        while done < kills:
            pid = run.start()
            # most lives are shorter than the run, so that it is killed at the beginning, in the middle and at the end
            if (code := ended_within(pid, draw.uniform(0.3, 0.6 * seconds))) is None:
                kill(pid)
                wait(pid)
                phases.append(run.phase())
                done += 1
            elif code == 0:  # finished before it could be killed: from the beginning, with what was killed so far
                if differences(run, reference):
                    break
                shutil.rmtree(run.folder)
            else:
                failures.append(f"run {number} ended with {code}: {run.log()[-500:]}")
                break
        if done == kills:
            run.finish()
        injected += done
        if (found := differences(run, reference)) or done < kills:
            failures.append(f"run {number} {VARIANTS[variant]}: {', '.join(found[:5])}")
        else:
            survived += done
            shutil.rmtree(run.folder)
    note = f"{runs} runs, {runs - len(failures)} bit for bit; killed in: {tally(phases)}"
    return Outcome(injected, survived, "; ".join([note, *failures]))
