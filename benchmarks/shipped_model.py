"""Ship trained weights with the bundle: check the network, halve it, score it on held-out scans, write its card.

    python benchmarks/shipped_model.py RUN --data DATASET [--held-out VOLUMES] [--recipe configs/public_ct.yaml]
        --trained-on TEXT --trained-at COMMIT

RUN is the folder of a training (``model.pt``, ``model.yaml``, ``tensorboard``), DATASET the prepared data set that it
was trained on. Held out are the validation cases of that data set, unless VOLUMES says otherwise. The network must be
the default of the bundle's inference.yaml, so that ``models/model.pt`` needs no further file.

Both precisions are scored as the bundle scores, with its default windows. Half precision is shipped if it costs nothing
that the tables would show; float32 if that is not so and the file stays below 8 MB. What is written: ``model.pt``,
``model.pt.sha256`` and ``model.json`` under the bundle's ``models``, ``docs/images/shipped_model.png``, the marked
regions of the model card and of ``docs/results.md``, and ``eval_metrics`` of ``metadata.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from model_card import refresh
from monai.bundle import ConfigParser
from naive_tokenizer import naive_reconstruction
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from ctpa_vqgan.bundle import default_device
from ctpa_vqgan.cli.knobs import read_yaml
from ctpa_vqgan.cli.workflows import run_workflow
from ctpa_vqgan.data import find_cases, load_volume, training_cases, validation_cases
from ctpa_vqgan.data.cases import DATALIST
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.files import write_whole
from ctpa_vqgan.handlers import load_weights
from ctpa_vqgan.metrics import volume_fidelity
from ctpa_vqgan.provenance import facts
from ctpa_vqgan.report import write_metrics
from ctpa_vqgan.tokens.fingerprint import network_fingerprint

ROOT = Path(__file__).parents[1]
SOURCES = Path(__file__).with_name("public_volumes.json")
MAX_WEIGHTS_BYTES, MAX_PICTURE_BYTES = 8_000_000, 300_000
#: differences between two precisions that the tables of results do not show
UNSEEN = {"psnr": 0.01, "ssim": 0.0005, "mae_hu": 0.05}
PAUSE_S = 15 * 60  # between two points of a log: longer is a pause, not work
NAIVE_BITS = 16 / 64  # one int16 for 4x4x4 voxels
STEPS = "quantizer.num_steps"  # optimizer steps, a buffer of the network


def ship(
    run: Path,
    data: Path,
    held_out: Path | None = None,
    recipe: Path = ROOT / "configs/public_ct.yaml",
    *,
    trained_on: str,
    trained_at: str,
    root: Path = ROOT,
) -> dict[str, Any]:
    """Put the network of ``run`` into the bundle below ``root``.

    Returns:
        The content of ``model.json``.

    Raises:
        UserError: no finished run, another network than the bundle's, a file that is too large, or no case held out.
    """
    bundle, work = root / "bundles/ctpa_vqgan", run / "shipped"
    weights = checked_weights(run, bundle)
    files = {"float32": serialized(weights), "float16": serialized(halved(weights))}
    if len(files["float16"]) > MAX_WEIGHTS_BYTES:
        raise UserError(f"{run / 'model.pt'}: {_too_large(len(files['float16']), 'half')}; train a smaller network")
    cases, listed = held_out_cases(data, held_out), training_cases(data)

    scores = {}
    for precision, content in files.items():
        path = write_whole(work / precision / "model.pt", content)
        run_workflow(
            "evaluate",
            data=str(held_out or data),
            output=str(path.parent),
            checkpoint=str(path),
            bundle=str(bundle),
            settings=["compared_cases=0", "shift_cases=0", "phantoms=false"],  # two precisions are compared by scores
        )
        scores[precision] = json.loads((path.parent / "metrics.json").read_text())
    scores["trilinear"] = write_metrics(work / "trilinear", [_naive_scores(case) for case in cases])
    precision = chosen_precision(scores["float32"]["mean"], scores["float16"]["mean"], len(files["float32"]))

    content = files[precision]
    network = load_weights(default_network(bundle), work / precision / "model.pt")
    shipped = {
        "weights": {
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "precision": precision,
            "parameters": sum(p.numel() for p in network.parameters()),
            "network_fingerprint": network_fingerprint(network),
        },
        "training": {
            "recipe": f"configs/{recipe.name}",
            "recipe_text": recipe.read_text(),
            "iterations": int(weights[STEPS]),
            **training_time(run / "tensorboard"),
            "hardware": trained_on,
            "commit": trained_at,
        },
        "data": {"training": described(listed), "held_out": described(cases)},
        "scores": scores,
        "scored": {key: value for key, value in facts(default_device()).items() if key != "command"},
    }
    models = bundle / "models"
    write_whole(models / "model.pt", content)
    write_whole(models / "model.pt.sha256", f"{shipped['weights']['sha256']}  model.pt\n")
    write_whole(models / "model.json", json.dumps(shipped, indent=2) + "\n")
    write_whole(root / "docs/images/shipped_model.png", small_png(work / precision / "montage.png"))
    refresh(root)
    return shipped


# -- the network -------------------------------------------------------------------------------------------------------


def default_network(bundle: Path) -> torch.nn.Module:
    """The network of the bundle's inference.yaml, as MONAI's tools build it."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs/inference.yaml")
    return parser.get_parsed_content("network_def").eval()


def checked_weights(run: Path, bundle: Path) -> dict[str, torch.Tensor]:
    """The weights of a run whose network is the bundle's default one.

    Raises:
        UserError: there is no run, or its network or HU window is another one.
    """
    for name in ("model.pt", "model.yaml"):
        if not (run / name).is_file():
            raise UserError(f"{run}: expected the folder of a training with {name}, found none; train first")
    network = default_network(bundle)
    expected = {"network_def": network.config, "hu_window": read_yaml(bundle / "configs/inference.yaml")["hu_window"]}
    if differing := differences(read_yaml(run / "model.yaml"), expected):
        raise UserError(
            f"{run / 'model.yaml'}: {differing[0]}; models/model.pt must fit inference.yaml alone, "
            "train without changing the network's knobs"
        )
    load_weights(network, run / "model.pt")
    return torch.load(run / "model.pt", map_location="cpu", weights_only=True)


def differences(found: Mapping[str, Any], expected: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What ``found`` has otherwise than ``expected``, one text each; further keys of ``found`` do not count."""
    texts = []
    for key, value in expected.items():
        name, other = prefix + key, found.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            texts += differences(other, value, f"{name}::")
        elif (list(other) if isinstance(other, (list, tuple)) else other) != (
            list(value) if isinstance(value, (list, tuple)) else value
        ):
            texts.append(f"{name}: expected {value}, found {other}")
    return texts


def halved(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Floating tensors in half precision; numbers of steps and flags stay.

    Raises:
        UserError: if a value is beyond the range of half precision.
    """
    half = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    for key, value in half.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"{key}: values beyond the range of half precision (65504); the training has diverged")
    return half


def serialized(weights: Mapping[str, torch.Tensor]) -> bytes:
    """What ``torch.save`` writes; the same bytes for the same weights."""
    buffer = io.BytesIO()
    torch.save(dict(weights), buffer)
    return buffer.getvalue()


def chosen_precision(full: Mapping[str, Any], half: Mapping[str, Any], float32_bytes: int) -> str:
    """Half precision where it costs nothing that the tables show, float32 where that fits.

    Args:
        full: mean scores of float32.
        half: mean scores of half precision.
        float32_bytes: size of the float32 file.

    Raises:
        UserError: half costs something and float32 is too large.
    """
    lost = {
        key: abs(full[key] - half[key]) for key in full if key.removeprefix("decoded_") in UNSEEN and _number(full[key])
    }
    seen = [f"{key} by {by:.4g}" for key, by in lost.items() if not by < UNSEEN[key.removeprefix("decoded_")]]
    print("half precision changes " + ", ".join(f"{key} by {by:.2g}" for key, by in lost.items()), flush=True)
    if not seen:
        return "float16"
    if float32_bytes > MAX_WEIGHTS_BYTES:
        raise UserError(f"half precision changes {', '.join(seen)}, and {_too_large(float32_bytes, 'float32')}")
    return "float32"


def _number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _too_large(size: int, precision: str) -> str:
    return f"expected at most {MAX_WEIGHTS_BYTES / 1e6:.0f} MB, found {size / 1e6:.1f} MB in {precision} precision"


# -- the training ------------------------------------------------------------------------------------------------------


def training_time(tensorboard: Path) -> dict[str, Any]:
    """Hours between the points of all event files, pauses left out, and how often the run was started."""
    files = sorted(tensorboard.glob("events.out.tfevents.*"))
    if not files:
        raise UserError(f"{tensorboard}: expected the event files of the training, found none; its hours stand there")
    times = [[event.wall_time for event in EventFileLoader(str(file)).Load()] for file in files]
    gaps = [later - earlier for points in times for earlier, later in itertools.pairwise(points)]
    return {"hours": sum(gap for gap in gaps if 0 < gap <= PAUSE_S) / 3600, "starts": len(files)}


def held_out_cases(data: Path, held_out: Path | None) -> list[dict[str, Any]]:
    """Cases to score on, none of which was trained on.

    Raises:
        UserError: there is no datalist to tell them, or a volume is on both sides.
    """
    if not (data if data.suffix == ".json" else data / DATALIST).is_file():
        raise UserError(f"{data}: expected a data set with {DATALIST}, found none; give what prepare made")
    cases = find_cases(held_out, "validation") if held_out else validation_cases(data)
    trained = {_sha256(case["image"]) for case in training_cases(data)}
    for case in cases:
        if _sha256(case["image"]) in trained:
            raise UserError(f"{case['image']}: trained on and held out; name other volumes with --held-out")
    return cases


def described(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is known of each volume: size, SHA-256, origin and licence; and how often it is listed."""
    known = {entry["sha256"]: entry for entry in json.loads(SOURCES.read_text())}
    times = Counter(str(case["image"]) for case in cases)
    volumes = []
    for case in {str(case["image"]): case for case in cases}.values():
        volume, sha256 = load_volume()({"image": case["image"]})["image"], _sha256(case["image"])
        entry = {"name": case["case"], "what": "", "origin": "not named", "licence": "not named", "sha256": sha256}
        entry |= known.get(sha256, {})
        entry |= {"shape": list(volume.shape[1:]), "spacing_mm": _spacing(volume), "listed": times[str(case["image"])]}
        volumes.append(entry)
    return sorted(volumes, key=lambda entry: entry["name"])


def _spacing(volume: Any) -> list[float]:
    return [round(float(mm), 4) for mm in nib.affines.voxel_sizes(np.asarray(volume.affine))]


def _sha256(image: str | tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for path in [image] if isinstance(image, str) else image:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()


# -- scores and picture ------------------------------------------------------------------------------------------------


def _naive_scores(case: Mapping[str, Any]) -> dict[str, Any]:
    volume = load_volume()({"image": case["image"]})["image"].as_tensor()[0]
    scores = volume_fidelity(naive_reconstruction(volume), volume)
    return {"case": case["case"], **scores, "bits_per_voxel": NAIVE_BITS}


def small_png(picture: Path) -> bytes:
    """The picture in a palette, as wide as ``MAX_PICTURE_BYTES`` allows."""
    from PIL import Image

    with Image.open(picture) as image:
        image = image.convert("RGB")
    for width in range(1200, 300, -100):
        size = (width, round(image.height * width / image.width))
        buffer = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).quantize(96).save(buffer, "png", optimize=True)
        if len(buffer.getvalue()) <= MAX_PICTURE_BYTES:
            break
    return buffer.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of the training")
    parser.add_argument("--data", type=Path, required=True, help="the data set that it was trained on")
    parser.add_argument("--held-out", type=Path, help="volumes to score on; the data set's validation cases by default")
    parser.add_argument("--recipe", type=Path, default=ROOT / "configs/public_ct.yaml", help="overlay of the training")
    parser.add_argument("--trained-on", required=True, help="hardware of the training")
    parser.add_argument("--trained-at", required=True, help="commit of the training")
    try:
        ship(**vars(parser.parse_args()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
