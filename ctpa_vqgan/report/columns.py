"""What each metric is called, how it is printed and what it means: the one home of these facts."""

from __future__ import annotations

from typing import Any, NamedTuple


class Column(NamedTuple):
    """How one metric appears in a table."""

    heading: str
    number: str  # format specification
    definition: str
    missing: str = "n/a"


COLUMNS = {
    "psnr": Column(
        "PSNR [dB]",
        ".2f",
        "peak signal-to-noise ratio, 10 log10(R² / mean squared error), R the width of the HU range (2000 HU for "
        "-1000..1000); higher is better; infinite where the two volumes are identical.",
    ),
    "ssim": Column(
        "SSIM",
        ".4f",
        "structural similarity (Wang et al. 2004) in a 3-D Gaussian window of 11 voxels, sigma 1.5; 1 is perfect; "
        "needs at least 11 voxels along each axis.",
        missing="n/a (under 11 voxels)",
    ),
    "mae_hu": Column(
        "MAE [HU]", ".2f", "mean absolute error per voxel, after clipping to the HU range; lower is better."
    ),
    "rmse_hu": Column("RMSE [HU]", ".2f", "root mean square error per voxel; weighs large errors more than MAE."),
    "clipped_share": Column(
        "clipped",
        ".2%",
        "share of the original's voxels outside the HU range (-1000..1000 unless said otherwise): metal, dense bone, "
        "scanner padding. Both volumes are clipped to the range before anything is measured.",
    ),
    "bits_per_voxel": Column(
        "bits/voxel",
        ".4f",
        "size of the codes: tokens * log2(codebook size) / voxels, without entropy coding; a stored scan has 16.",
    ),
    "compression_ratio": Column("ratio", ".1f", "16 bits / bits per voxel: how many times smaller than the scan."),
    "usage": Column("codes used", ".1%", "share of the codebook's codes that occur at least once."),
    "perplexity": Column(
        "perplexity", ".0f", "exp of the codes' entropy: how many, equally often used, are as varied."
    ),
    "body_usage": Column(
        "body codes used", ".1%", "codes used by body tokens, those whose cell of voxels has a mean above -950 HU."
    ),
    "body_perplexity": Column(
        "body perplexity", ".0f", "perplexity among body tokens: the air around the patient left out."
    ),
    "num_tokens": Column("tokens", ".0f", "integer codes that stand for the volume."),
    "seconds": Column("time [s]", ".1f", "wall-clock time of the case."),
}


def describe(key: str) -> tuple[str, Column]:
    """Split a metric's key into a prefix and its column: ``decoded_psnr`` is ``("decoded", COLUMNS["psnr"])``.

    The longest known ending wins, so that ``body_usage`` is itself; an unknown key becomes its own heading.
    """
    for cut in [0, *(i + 1 for i, letter in enumerate(key) if letter == "_")]:
        if key[cut:] in COLUMNS:
            return key[:cut].rstrip("_"), COLUMNS[key[cut:]]
    return "", Column(key, ".4g", "")


def heading(key: str) -> str:
    """A metric's heading, with its unit."""
    prefix, column = describe(key)
    return f"{prefix} {column.heading}".lstrip()


def show(key: str, value: Any) -> str:
    """A metric's value as a reader wants it."""
    column = describe(key)[1]
    if value is None:
        return column.missing
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return {"inf": "∞", "-inf": "-∞"}.get(value, str(value))
    return format(value, column.number)
