"""Kill loader processes while a training runs."""

from __future__ import annotations

from pathlib import Path

from faults.training import Outcome, Run, differences, draws, ended_within, kill

SETTINGS = {"num_workers": 2, "max_epochs": 4}


def campaign(data: Path, folder: Path, number: int, seed: int = 0) -> Outcome:
    """SIGKILL loader processes at random moments; the training goes on in the same life.

    Survived: the run ends with 0 and comes out bit for bit.
    """
    draw = draws(seed)
    reference = Run(data, folder / "reference", **SETTINGS)
    reference.finish()
    injected, survived, runs, failures = 0, 0, 0, []
    while injected < number:
        run = Run(data, folder / f"run_{runs}", **SETTINGS)
        runs, pid, kills = runs + 1, run.start(), 0
        while (code := ended_within(pid, draw.uniform(0.5, 3.0))) is None:
            children = _children(pid)
            if children and injected + kills < number:
                kill(draw.choice(children))
                kills += 1
        injected += kills
        if code or (found := differences(run, reference)):
            failures.append(f"run {runs} ended with {code}: {run.log()[-300:] if code else found[:3]}")
        else:
            survived += kills
    return Outcome(injected, survived, "; ".join([f"{runs} runs, bit for bit", *failures[:3]]))


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
