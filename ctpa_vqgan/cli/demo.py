"""Show the whole way in a few minutes: data, training, a held-out volume reconstructed, a report."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

from ctpa_vqgan.cli.workflows import SOURCE_TREE, find_bundle, run_workflow
from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.columns import heading, show

NUM_CASES, PATCHES_PER_EPOCH = 6, 300
PHANTOM_SIZE, PHANTOM_SPACING_MM = (112, 112, 96), (3.2, 3.2, 3.4)
COMPARED = ("psnr", "ssim", "mae_hu")


def run_demo(data: str | None = None, output: str = "runs/demo") -> None:
    """Train on small phantoms (or a folder of volumes), reconstruct one that was held out, and say what to try next.

    The held-out phantom is reconstructed with the weights that come with the bundle too, where there are some. The same
    command again goes on where it stopped; on other data it starts anew.

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
    shipped = find_bundle() / "models/model.pt"
    # the larger network takes minutes on a CPU for a whole CT, seconds for a phantom
    beside = _beside(folder, Path(held_out), shipped) if shipped.is_file() and not data else ""

    package = [sys.executable, "-m", "ctpa_vqgan"]
    tensorboard = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder / "tensorboard")]
    # the weights of the bundle need not be named
    chosen = [] if shipped.is_file() else ["--checkpoint", weights]
    reconstruct = [*package, "inference", *chosen, "--data", "YOUR_CT.nii.gz", "--output", "runs/mine"]
    train = [*package, "train", "--data", "YOUR_FOLDER", "--output", "runs/first", "--overlay", "configs/cpu.yaml"]
    print(
        f"""{beside}
Done. Look at {folder / "report.html"} and {folder / "montage.png"}; the reconstruction lies beside them as NIfTI.
A few minutes on a CPU show the way, not the quality. Three commands to try next (the last without its overlay is the
full-resolution recipe, for a GPU):
  {shlex.join(tensorboard)}
  {shlex.join(reconstruct)}
  {shlex.join(train)}"""
    )


def _beside(folder: Path, held_out: Path, shipped: Path) -> str:
    """Reconstruct the held-out phantom with the shipped weights too; a picture, a table in the report.

    Returns:
        What to print of it.
    """
    import nibabel as nib
    import numpy as np

    from ctpa_vqgan.data import case_name
    from ctpa_vqgan.report import save_beside

    # one window for the whole phantom; 4 is the factor
    window = [-(-side // 4) * 4 for side in nib.load(held_out).shape]
    settings = [f"patch_size={window}", "progress=false"]
    run_workflow(
        "inference", data=str(held_out), output=str(folder / "shipped"), checkpoint=str(shipped), settings=settings
    )
    results = {"freshly trained": folder, "shipped weights": folder / "shipped"}
    case = case_name(held_out)
    images = {"original": held_out}
    images |= {name: where / f"{case}_reconstruction.nii.gz" for name, where in results.items()}
    images = {name: nib.as_closest_canonical(nib.load(path)) for name, path in images.items()}
    spacing = tuple(nib.affines.voxel_sizes(images["original"].affine))
    volumes = {name: np.asarray(image.dataobj) for name, image in images.items()}
    picture = save_beside(folder / "beside.png", volumes, spacing, title=case)
    rows = _scores(results)
    _add_to_report(folder / "report.md", rows)
    table = "".join("\n  " + "".join(f"{cell:<17}" for cell in row).rstrip() for row in rows)
    return f"\nThe held-out phantom beside the weights that come with the bundle, see {picture}:{table}\n"


def _scores(results: dict[str, Path]) -> list[list[str]]:
    """A header and a row for each folder of results."""
    means = {name: json.loads((where / "metrics.json").read_text())["mean"] for name, where in results.items()}
    rows = [[name, *(show(metric, mean[metric]) for metric in COMPARED)] for name, mean in means.items()]
    return [["weights", *map(heading, COMPARED)], *rows]


def _add_to_report(report: Path, rows: list[list[str]]) -> None:
    header, *rest = [f"| {' | '.join(row)} |\n" for row in rows]
    table = header + "|---|" + "---:|" * len(COMPARED) + "\n" + "".join(rest)
    told = "The network that comes with the bundle was trained on CTs of patients, not on phantoms."
    section = f"## Beside the shipped weights\n\n{told}\n\n{table}\n![beside](beside.png)\n"
    write_whole(report, f"{report.read_text()}\n{section}")


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
    write_whole(datalist, text)
    return datalist


def _phantoms(folder: Path) -> Path:
    """Small phantoms, made once."""
    if len(list(folder.glob("*.nii.gz"))) < NUM_CASES:
        from ctpa_vqgan.data.phantom import write_phantom_dataset

        print(f"making {NUM_CASES} phantoms of {'x'.join(map(str, PHANTOM_SIZE))} voxels in {folder}", flush=True)
        write_phantom_dataset(folder, NUM_CASES, PHANTOM_SIZE, PHANTOM_SPACING_MM)
    return folder
