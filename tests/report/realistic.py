"""An evaluation as it might have been: three patients, one refused file, phantoms, rivals; made-up numbers."""

import math
import random

CASES = ("LIDC-0001", "LungDx-A0001_contrast", "TS-pulmonary")
TISSUES = {
    "air": (0.31, 1.4),
    "lung": (0.22, -3.2),
    "fat": (0.16, 0.9),
    "soft_tissue": (0.2, -0.4),
    "contrast_blood": (0.04, -4.8),
    "bone": (0.02, -11.7),
}


def summary(num, bias, sd):
    """An error summary of normally distributed errors."""
    rmse = math.hypot(bias, sd)
    low, high = bias - 1.96 * sd, bias + 1.96 * sd
    return {
        **{"num_voxels": int(num), "bias_hu": bias, "mae_hu": 0.8 * rmse, "rmse_hu": rmse, "sd_hu": sd},
        **{"low_95_hu": low, "high_95_hu": high, "loa_low_hu": low, "loa_high_hu": high},
        "psnr": 20 * math.log10(2000 / rmse),
    }


def version(draw, num, worse, has_seams):
    """Details of one version of a volume; ``worse`` is about 1."""
    spread = 26 * worse
    found = [{"axis": 2, "plane": 96, "hu": 6.4, "z": 8.1}, {"axis": 0, "plane": 192, "hu": 3.9, "z": 5.6}]
    windows = {"lung": 1.0, "mediastinum": 0.55, "pe": 0.7, "bone": 0.8}
    slices = [12 + 5 * worse * abs(math.sin(z / 17)) for z in range(133)]
    pulmonary = summary(58_112, -6.1 * worse, spread) | {"original_mean_hu": 214.9, "mean_hu": 214.9 - 6.1 * worse}
    return {
        "regions": {"whole": summary(num, -0.6, 0.8 * spread), "body": summary(0.6 * num, -1.2, spread)},
        "tissues": {n: summary(s * num, b * worse, spread * draw.uniform(0.6, 1.4)) for n, (s, b) in TISSUES.items()},
        "labels": {"pulmonary_artery": pulmonary},
        "windows": {n: summary(num, -0.5, share * 0.8 * spread) for n, share in windows.items()},
        "body_windows": {n: summary(0.6 * num, -0.9, share * spread) for n, share in windows.items()},
        "seams": {
            **{"hu": 1.8 if has_seams else 0.2, "axis_hu": [1.2, 0.4, 2.1], "axis_z": [3.9, 0.6, 5.2]},
            **{"ratio": [1.012, 0.997, 1.041 if has_seams else 1.004], "num_planes": 8},
            "found": found if has_seams else [],
        },
        "structure": {
            "lung_ml": 4_820.0 * worse,
            "laa950": {"original_percent": 6.41, "percent": 5.12, "shift_pp": -1.29 * worse},
            "perc15": {"original_hu": -921.0, "hu": -915.0, "shift_hu": 6.0},
            "vessels": {"dice": 0.941 / worse**0.2, "cldice": 0.902 / worse**0.2, "original_ml": 142.3, "ml": 131.9},
            "noise": {
                **{"num_regions": 212, "sd_ratio": 0.61, "nps_ratio": 0.38 / worse, "mean_frequency_ratio": 0.72},
                **{"frequency_per_mm": [0.1, 0.2], "original": [9.0, 4.0], "reconstruction": [5.0, 1.0]},
            },
            "residual": {"anatomy_r": -0.081 * worse, "gradient_r": 0.44},
        },
        "by_slice": {"mae_hu": slices, "bias_hu": [-0.5] * 133, "rmse_hu": [1.5 * mae for mae in slices]},
    }


def rivals(bits, psnr):
    """What was compared with the model at its rate."""

    def row(name, kind, setting, bits, psnr, **more):
        rmse = 2000 / 10 ** (psnr / 20)
        scores = {"ssim": 1 - 0.003 * rmse**0.9, "mae_hu": 0.6 * rmse, "rmse_hu": rmse}
        body = {"body_psnr": psnr - 1.9, "body_mae_hu": 0.8 * rmse, "body_rmse_hu": 1.24 * rmse}
        return {
            **{"name": name, "kind": kind, "setting": setting, "bits_per_voxel": bits, "psnr": psnr, **scores, **body},
            **{"nps_ratio": 0.41, "seconds": 12.3, **more},
        }

    small = {
        "usage": 0.88,
        "perplexity": 391.0,
        "small_size": [256, 256, 64],
        "small_psnr": 35.61,
        "small_ssim": 0.938,
        "small_mae_hu": 19.2,
    }
    hevc = ((0.25, 4.3), (0.5, 6.6), (1, 8.9), (2, 11.2), (4, 13.8))
    return [
        row("this model, reconstruction", "model", "windows, blended", bits, psnr),
        row("this model, decoded", "model", "codes of the whole volume", bits, psnr - 0.1),
        row(
            "network on 256 x 256 x 64",
            "baseline",
            "through the network, trilinear back",
            bits / 8.3,
            psnr - 4.2,
            **small,
        ),
        row("coarse grid of 256 x 256 x 64 alone", "interpolation", "16 bits each", 1.93, psnr - 1.3),
        row("trilinear", "interpolation", "factor 4, 12 bits", 0.1905, psnr - 5.3),
        *(
            row("HEVC", "codec", f"x265 gray12 medium, qp {38 - 3 * i}", bits * f, psnr - 3 + d)
            for i, (f, d) in enumerate(hevc)
        ),
        {
            "name": "JPEG 2000",
            "kind": "codec",
            "skipped": "imagecodecs is not installed; pip install 'ctpa_vqgan[codecs]'",
        },
    ]


def case(name, index):
    """The row of one case."""
    draw, worse = random.Random(index), (1.0, 1.35, 0.8)[index]
    shape, num = ([512, 512, 133], [512, 512, 310], [112, 102, 122])[index], 512 * 512 * 133
    psnr, bits = 37.4 - 12 * math.log10(worse), 0.2031
    details = version(draw, num, worse, has_seams=index == 1)
    body = details["regions"]["body"]
    counts = [int(3_000 / (code + 3)) for code in range(1024)]
    row = {
        **{"case": name, "shape": shape, "spacing_mm": [0.703, 0.703, 2.5], "psnr": psnr, "ssim": 0.951 / worse**0.1},
        **{"mae_hu": 17.2 * worse, "rmse_hu": 26.9 * worse, "clipped_share": 0.0132, "body_psnr": body["psnr"]},
        **{
            "body_ssim": 0.93 / worse**0.1,
            "body_mae_hu": body["mae_hu"],
            "body_rmse_hu": body["rmse_hu"],
            "decoded_psnr": psnr - 0.1,
        },
        **{
            "decoded_ssim": 0.949 / worse**0.1,
            "decoded_mae_hu": 17.5 * worse,
            "decoded_body_ssim": 0.929 / worse**0.1,
            "decoded_body_mae_hu": body["mae_hu"] + 0.2,
        },
        **{"seam_hu": details["seams"]["hu"], "seams_found": len(details["seams"]["found"]), "laa950_shift_pp": -1.29},
        **{
            "vessel_dice": 0.941,
            "vessel_cldice": 0.902,
            "nps_ratio": 0.38 / worse,
            "residual_anatomy_r": -0.081 * worse,
        },
        **{"bits_per_voxel": bits, "compression_ratio": 16 / bits, "usage": 0.97, "perplexity": 411.0},
        **{
            "body_usage": 0.96,
            "body_perplexity": 528.0,
            "num_tokens": 544_768,
            "tile_max_hu": 41.2,
            "tile_mean_hu": 0.8,
        },
        **{
            "seconds": 41.0,
            "decoded_seconds": 63.0,
            "reconstruction": details,
            "decoded": version(draw, num, 1.02 * worse, has_seams=False),
        },
        **{
            "tiles": {"max_hu": 41.2, "mean_hu": 0.8},
            "codes": {"counts": counts, "body_counts": counts[:600] + [0] * 424},
        },
    }
    if index == 0:
        row |= {"shift_sd_hu": 0.71, "against": rivals(bits, psnr)}
        row["shift"] = {"mean_hu": 0.71, "p95_hu": 2.4, "offsets": [[0, 0, 0], [8, 8, 4]], "box": [128, 128, 64]}
        row["shift"]["num_voxels"] = 90_112
    if index == 2:  # a crop that one window holds
        for details in (row["reconstruction"], row["decoded"]):
            details["seams"] = {"hu": math.nan, "axis_hu": [math.nan] * 3, "axis_z": [math.nan] * 3}
            details["seams"] |= {"ratio": [math.nan] * 3, "num_planes": 0, "found": []}
        row |= {"seam_hu": math.nan, "seams_found": math.nan, "shift_sd_hu": math.nan}
        row["shift"] = {"skipped": "the volume has less than 129 x 129 x 129 voxels: its border reaches all of it"}
        row["reconstruction"]["structure"] |= {"lung_ml": math.nan, "laa950": None, "perc15": None}
    return row


def phantoms(worse):
    """Phantoms of known truth after the network."""
    curve = {"frequency_per_mm": [0.1, 0.2, 0.3], "original": [1.0, 0.8, 0.5], "reconstruction": [1.0, 0.7, 0.3]}
    edges = [("ball", -850, 890, 0.93), ("rod", 40, 310, 0.84), ("plane", -100, 140, 0.71), ("ball", 300, -240, 0.64)]
    return {
        **{"spacing_mm": [0.7, 0.7, 0.7], "seconds": 55.0},
        "edges": [
            {"shape": shape, "background_hu": hu, "contrast_hu": contrast, "original_mtf50_per_mm": 0.42}
            | {"mtf50_per_mm": 0.42 * ratio / worse, "mtf50_ratio": ratio / worse, "mtf50_ratio_error": 0.011, **curve}
            for shape, hu, contrast, ratio in edges
        ],
        "noise": [
            {"background_hu": hu, "sd_hu": sd, "sd_ratio": 0.55, "nps_ratio": 0.3, "mean_frequency_ratio": 0.7, **curve}
            for hu, sd in ((40, 15.0), (350, 28.0))
        ],
        "linearity": {
            **{"slope": 0.9963, "intercept_hu": -0.7, "max_residual_hu": 2.9, "max_deviation_hu": 4.4},
            **{"known_hu": [-1000, 0, 1000], "measured_hu": [-996.0, -1.0, 995.0]},
        },
        "disks": [
            {"diameter_mm": d, "contrast_hu": c, "recovery": 0.8, "original_cnr": 0.9, "cnr": 1.2}
            | {"original_dprime": 2.6, "dprime": 2.2 / worse, "dprime_ratio": 0.85 / worse}
            for d, c in ((3, 14), (5, 7), (7, 5), (10, 3))
        ],
        "emboli": [
            {"diameter_mm": d, "vessel_mm": 12, "clot_hu": 60, "blood_hu": 350, "recovery": r / worse}
            | {"recovery_sd": 0.02, "count": 8}
            for d, r in ((2, 0.61), (3, 0.83), (4, 0.93), (6, 0.99), (8, 1.0))
        ],
    }


def evaluation():
    """Rows, and what stands beside them in ``metrics.json``."""
    refused = [
        {
            "case": "bad|<b>case</b>",
            "error": "scan_7.nii.gz: 14 of 20 MB are there; expected the whole file: copy it again",
        }
    ]
    extra = {"phantoms": {"reconstruction": phantoms(1.0), "decoded": phantoms(1.01)}, "refused": refused}
    return [case(name, index) for index, name in enumerate(CASES)], extra


SETTINGS = {
    "command": "python -m ctpa_vqgan evaluate --checkpoint runs/first/model.pt --data D --output runs/scores",
    "weights": "runs/first/model.pt, SHA-256 6f1d0a8b5d6a11",
    "window": "[256, 256, 128], overlap 0.25, gaussian",
    "hardware": "1 GPU\n16 cores\n128 GiB",
    "commit": "0123abc",
}
