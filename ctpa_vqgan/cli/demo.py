"""Show the whole way in a few minutes: data, training, a held-out volume reconstructed, a report."""

from __future__ import annotations

from pathlib import Path

from ctpa_vqgan.cli.workflows import SOURCE_TREE, run_workflow
from ctpa_vqgan.errors import UserError

NUM_PHANTOMS = 6
PHANTOM_SIZE, PHANTOM_SPACING_MM = (112, 112, 96), (3.2, 3.2, 3.4)


def run_demo(data: str | None = None, output: str = "runs/demo") -> None:
    """Train on small phantoms (or a folder of volumes), reconstruct one that was held out, and say what to try next.

    Args:
        data: folder of CT volumes; None makes phantoms.
        output: folder for data, weights, report and pictures.

    Raises:
        UserError: if ``output`` holds a demo on other data.
    """
    folder = Path(output)
    _claim(folder, data)
    if data is None:
        data = str(_phantoms(folder / "phantoms"))
    smoke = str(SOURCE_TREE / "configs/smoke.yaml")
    run_workflow("train", data=data, output=output, overlays=[smoke])

    from ctpa_vqgan.data import validation_cases

    held_out = validation_cases(data)[0]["image"]
    weights = str(folder / "model.pt")
    run_workflow("evaluate", data=held_out, output=output, checkpoint=weights, overlays=[smoke])
    print(
        f"""
Done. Look at {folder / "report.md"} and {folder / "montage.png"}; the reconstruction lies beside them as NIfTI.
A few minutes on a CPU show the way, not the quality. Three commands to try next:
  tensorboard --logdir {folder / "tensorboard"}
  python -m ctpa_vqgan inference --checkpoint {weights} --data YOUR_CT.nii.gz --output runs/mine
  python -m ctpa_vqgan train --data YOUR_FOLDER --output runs/first  (on a CPU add --overlay configs/cpu.yaml)"""
    )


def _claim(folder: Path, data: str | None) -> None:
    """One folder, one demo: a second run resumes the first, so it must be on the same data."""
    source = str(Path(data).resolve()) if data else "phantoms"
    marker = folder / "demo_data.txt"
    before = marker.read_text().strip() if marker.is_file() else source
    if before != source:
        raise UserError(f"{folder}: holds a demo on {before}, not on {source}; remove it, or give another --output")
    if data is None or Path(data).exists():
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(source + "\n")


def _phantoms(folder: Path) -> Path:
    """Small phantoms, made once."""
    if len(list(folder.glob("*.nii.gz"))) < NUM_PHANTOMS:
        from ctpa_vqgan.data.phantom import write_phantom_dataset

        print(f"making {NUM_PHANTOMS} phantoms of {'x'.join(map(str, PHANTOM_SIZE))} voxels in {folder}", flush=True)
        write_phantom_dataset(folder, NUM_PHANTOMS, PHANTOM_SIZE, PHANTOM_SPACING_MM)
    return folder
