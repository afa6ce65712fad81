"""Show the whole way in a few minutes: data, training, a held-out volume reconstructed, a report."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

from ctpa_vqgan.cli.workflows import SOURCE_TREE, run_workflow

NUM_CASES, PATCHES_PER_EPOCH = 6, 300
PHANTOM_SIZE, PHANTOM_SPACING_MM = (112, 112, 96), (3.2, 3.2, 3.4)


def run_demo(data: str | None = None, output: str = "runs/demo") -> None:
    """Train on small phantoms (or a folder of volumes), reconstruct one that was held out, and say what to try next.

    The same command again goes on where it stopped; on other data it starts anew.

    Args:
        data: folder of CT volumes, of which at most six are used; None makes phantoms.
        output: folder for data, weights, report and pictures.

    Raises:
        UserError: if ``data`` holds no volumes.
    """
    folder = Path(output)
    datalist = _few_cases(Path(data) if data else _phantoms(folder / "phantoms"), folder)
    smoke = str(SOURCE_TREE / "configs/smoke.yaml")
    cases = json.loads(datalist.read_text())
    share = f"num_samples={PATCHES_PER_EPOCH // len(cases['training'])}"  # few volumes or many: the same time
    run_workflow("train", data=str(datalist), output=output, overlays=[smoke], settings=[share])
    held_out = cases["validation"][0]["image"]
    weights = str(folder / "model.pt")
    run_workflow("evaluate", data=held_out, output=output, checkpoint=weights, overlays=[smoke])

    package = [sys.executable, "-m", "ctpa_vqgan"]
    tensorboard = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder / "tensorboard")]
    reconstruct = [*package, "inference", "--checkpoint", weights, "--data", "YOUR_CT.nii.gz", "--output", "runs/mine"]
    train = [*package, "train", "--data", "YOUR_FOLDER", "--output", "runs/first", "--overlay", "configs/cpu.yaml"]
    print(
        f"""
Done. Look at {folder / "report.md"} and {folder / "montage.png"}; the reconstruction lies beside them as NIfTI.
A few minutes on a CPU show the way, not the quality. Three commands to try next (the last without its overlay is the
full-resolution recipe, for a GPU):
  {shlex.join(tensorboard)}
  {shlex.join(reconstruct)}
  {shlex.join(train)}"""
    )


def _few_cases(source: Path, folder: Path) -> Path:
    """A datalist of few cases in ``folder``; what an earlier demo trained on other data is dropped."""
    from ctpa_vqgan.data import training_cases, validation_cases

    # a share of 0: the one case that is held out at least
    split = {"training": training_cases(source, 0.0)[: NUM_CASES - 1], "validation": validation_cases(source, 0.0)[:1]}
    split = {part: [{"image": str(Path(case["image"]).resolve())} for case in cases] for part, cases in split.items()}
    text = json.dumps(split, indent=2) + "\n"
    datalist = folder / "dataset.json"
    if datalist.is_file() and datalist.read_text() != text:
        print(f"{folder} holds a demo on other data: starting anew", flush=True)
        for old in ("checkpoints", "tensorboard"):
            shutil.rmtree(folder / old, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    datalist.write_text(text)
    return datalist


def _phantoms(folder: Path) -> Path:
    """Small phantoms, made once."""
    if len(list(folder.glob("*.nii.gz"))) < NUM_CASES:
        from ctpa_vqgan.data.phantom import write_phantom_dataset

        print(f"making {NUM_CASES} phantoms of {'x'.join(map(str, PHANTOM_SIZE))} voxels in {folder}", flush=True)
        write_phantom_dataset(folder, NUM_CASES, PHANTOM_SIZE, PHANTOM_SPACING_MM)
    return folder
