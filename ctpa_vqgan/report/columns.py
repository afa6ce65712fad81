"""What each metric is called, how it is printed and what it means: the one home of these facts."""

from __future__ import annotations

from typing import Any, NamedTuple


class Column(NamedTuple):
    """How one metric appears in a table."""

    heading: str
    number: str  # format specification
    definition: str
    missing: str = "n/a"
    counts: bool = False  # whole but for its mean, which alone has digits behind the point


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
    "body_ssim": Column(
        "body SSIM", ".4f", "SSIM of the windows whose middle lies in the body: air around it is easy and flatters."
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
    "body_psnr": Column(
        "body PSNR [dB]", ".2f", "PSNR of the body's voxels alone: air around it is easy and flatters."
    ),
    "body_mae_hu": Column("body MAE [HU]", ".2f", "mean absolute error of the body's voxels."),
    "body_rmse_hu": Column("body RMSE [HU]", ".2f", "root mean square error of the body's voxels."),
    "seam_hu": Column(
        "seams [HU]",
        ".2f",
        "root mean square jump of the error across the planes where windows meet, above what is usual nearby; noise "
        "alone leaves it a little above 0.",
    ),
    "seams_found": Column(
        "seams found",
        ".2f",
        "window planes whose jump stands out by 5 SDs from the planes nearby; not measured where one window holds the "
        "volume, as nothing meets there.",
        counts=True,
    ),
    "tile_max_hu": Column(
        "windows - tiles, largest [HU]",
        ".2f",
        "largest difference between the reconstruction (blended windows) and what the codes decode to (exact tiles).",
    ),
    "tile_mean_hu": Column("windows - tiles, mean [HU]", ".3f", "mean of the same absolute difference."),
    "shift_sd_hu": Column(
        "shift SD [HU]",
        ".3f",
        "standard deviation of a voxel when all windows are moved, mean over voxels; 0 is ideal.",
    ),
    "laa950_shift_pp": Column(
        "%LAA-950 shift",
        "+.2f",
        "change of the share of lung below -950 HU (emphysema: Gevenois et al. 1996), in percentage points; smoothing "
        "lowers it.",
    ),
    "vessel_dice": Column(
        "vessel Dice", ".3f", "overlap of the lung vessels, segmented by the same rule before and after; 1 is perfect."
    ),
    "vessel_cldice": Column(
        "vessel clDice",
        ".3f",
        "the same along centre lines (Shit et al. 2021), in which thin branches count as much as thick ones.",
    ),
    "nps_ratio": Column(
        "noise power",
        ".2f",
        "power of the noise in flat regions, after / before; 1 keeps the texture, less is smoother.",
    ),
    "residual_anatomy_r": Column(
        "residual r",
        "+.3f",
        "correlation of the error with the anatomy; 0: nothing but noise was lost, beyond ±0.05: structure was.",
    ),
    "seconds": Column(
        "time [s]",
        ".1f",
        "wall-clock time of the reconstruction by sliding windows alone: reading, judging and writing are left out.",
    ),
    "decoded_seconds": Column(
        "decoded time [s]", ".1f", "wall-clock time of encoding the volume and decoding its codes, both by exact tiles."
    ),
}

GUIDE = (
    "the patch-wise training guide from which users of the 256 x 256 x 64 baseline come; its figures are quoted as it "
    "gives them"
)
TERMS = {
    "bias": ("bias [HU]", "mean of the signed error, after - before: by how much a tissue came back too bright."),
    "limits_95": (
        "95 % of errors [HU]",
        "the 2.5 and 97.5 percentiles of the signed error: where 95 of 100 voxels lie.",
    ),
    "tissue": (
        "tissue",
        "voxels whose HU in the original lie in the range given. Spongy bone is as bright as contrast-filled blood and "
        "counted with it; what lies in no range is mostly the edge of two tissues.",
    ),
    "body": ("body", "cubes of 4 x 4 x 4 voxels whose mean is above -950 HU: the patient, and the table."),
    "window": (
        "display window",
        "what a screen shows, W its width and L its middle in HU; black and white voxels count.",
    ),
    "mtf50": (
        "MTF50 [1/mm]",
        "the detail (cycles per mm) at which half of the contrast is left, from edges of balls and rods; after "
        "/ before is the sharpness of the network alone.",
    ),
    "nps": (
        "noise power, mean frequency",
        "area and centre of the noise power spectrum in flat regions: how strong the noise is, how fine its grain.",
    ),
    "linearity": ("linearity", "a line through known and measured HU: slope 1 and intercept 0 keep them."),
    "dprime": (
        "d', CNR",
        "how well an ideal reader without prewhitening, or a contrast-to-noise ratio, tells a faint disk from noise.",
    ),
    "emboli": (
        "contrast kept",
        "(blood - clot) after / before, mean over positions relative to the network's grid: 0.5 is an embolus half as "
        "dark as it was.",
    ),
    "perc15": ("perc15 [HU]", "the HU below which 15 % of the lungs lie, another measure of emphysema."),
    "residual": (
        "r with anatomy, with edges",
        "correlation of the error with the anatomy, and of its size with the steepness of the original: 0 if only "
        "noise was lost.",
    ),
    "seams": (
        "seam index",
        "mean absolute jump of the error on window planes / on planes nearby, by axis: 1 where there is no seam. A "
        "seam is found where a plane's jump stands out by 5 SDs.",
    ),
    "guide": ("the guide", f"{GUIDE}."),
    "baseline": (
        "baseline",
        "the volume resized to the small grid (through the network or not) and brought back to its own.",
    ),
    "rate": (
        "at the same rate",
        "a rival's score at the model's bits per voxel, between two measured rates along the logarithm of the rate. "
        "The model's codes are counted without entropy coding, a codec's stream by its bytes.",
    ),
    "decoded": (
        "decoded",
        "columns that begin with decoded measure the volume decoded from the codes alone (exact tiles), which is what "
        "a generative model will see.",
    ),
}
"""What a report's chapters speak of beyond columns of cases: heading and definition."""


def describe(key: str) -> tuple[str, Column]:
    """Split a metric's key into a prefix and its column: ``decoded_psnr`` is ``("decoded", COLUMNS["psnr"])``.

    A prefix is words for a reader: that of ``second_try_psnr`` is "second try". The longest known ending wins, so that
    ``body_usage`` is itself; an unknown key becomes its own heading.
    """
    for cut in [0, *(i + 1 for i, letter in enumerate(key) if letter == "_")]:
        if key[cut:] in COLUMNS:
            return key[:cut].replace("_", " ").rstrip(), COLUMNS[key[cut:]]
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
    text = format(value, column.number)
    return text.rstrip("0").rstrip(".") if column.counts else text
