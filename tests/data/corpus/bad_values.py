"""NIfTI files with values that are no HU of a whole CT."""

from __future__ import annotations

import numpy as np

from corpus.kinds import in_gz, in_nii
from corpus.nifti import nifti
from corpus.patient import AFFINE, SHAPE, chest, turned
from corpus.voxels import changed, copied, corners, garbage, labels, padded, repeated, windowed

VALUES = {
    "nan-block": in_gz("finite", lambda: nifti(changed(np.nan, np.s_[20:24, 20:24, 9:12], dtype="f4"))),
    "nan-voxel": in_nii("finite", lambda: nifti(changed(np.nan, (63, 63, 39), dtype="f4"))),
    "infinite-voxel": in_gz("finite", lambda: nifti(changed(np.inf, (30, 30, 20), dtype="f4"))),
    "negative-infinite-voxel": in_gz("finite", lambda: nifti(changed(-np.inf, (0, 0, 0), dtype="f8"))),
    "nan-around": in_gz("finite", lambda: nifti(changed(np.nan, chest() < -900, dtype="f4"))),
    "all-nan": in_gz("finite", lambda: nifti(np.full(SHAPE, np.nan, "f4"))),
    "constant-zero": in_gz("hu-constant", lambda: nifti(np.zeros(SHAPE, "i2"))),
    "constant-air": in_nii("hu-constant", lambda: nifti(np.full(SHAPE, -1024, "i2"))),
    "all-air": in_gz("hu-range", lambda: nifti(np.clip(chest(), -1100, -900))),
    "mask-binary": in_gz("hu-mask", lambda: nifti((chest() > 200).astype("u1"))),
    "mask-binary-float": in_gz("hu-mask", lambda: nifti((chest() > 200).astype("f4"))),
    "mask-binary-nii": in_nii("hu-mask", lambda: nifti((chest() > 200).astype("i2"))),
    "mask-of-0-and-255": in_gz("hu-mask hu-8bit", lambda: nifti(np.where(chest() > 200, 255, 0).astype("u1"))),
    "labels-few": in_gz("hu-mask", lambda: nifti(labels(4).astype("u1"))),
    "labels-of-117-organs": in_gz("hu-mask", lambda: nifti(labels(117).astype("i2"))),
    "probabilities": in_gz("hu-normalised hu-mask", lambda: nifti((1 / (1 + np.exp(-chest() / 99.0))).astype("f4"))),
    "normalised-0-1": in_gz("hu-normalised", lambda: nifti(windowed(-1000, 1000, 1).astype("f4"))),
    "normalised-minus-1-1": in_gz("hu-normalised", lambda: nifti((windowed(-1000, 1000, 2) - 1).astype("f4"))),
    "normalised-by-slope": in_gz(
        "hu-normalised", lambda: nifti(windowed(-1000, 1000, 65535).astype("u2"), scl_slope=1 / 65535)
    ),
    "z-scored": in_gz("hu-normalised", lambda: nifti(((chest() - chest().mean()) / chest().std()).astype("f4"))),
    "attenuation-against-water": in_gz("hu-normalised", lambda: nifti((1 + chest() / 1000).astype("f4"))),
    "windowed-8bit": in_gz("hu-8bit", lambda: nifti(windowed(-1000, 500, 255).astype("u1"))),
    "windowed-8bit-as-int16": in_gz("hu-8bit", lambda: nifti(windowed(-160, 240, 255).astype("i2"))),
    "windowed-8bit-as-float": in_gz("hu-8bit hu-normalised", lambda: nifti(windowed(-1000, 500, 255).astype("f4"))),
    "windowed-8bit-with-gaps": in_gz("hu-8bit hu-mask", lambda: nifti((chest() // 6 + 167).clip(0, 255).astype("u1"))),
    "normalised-to-percent": in_gz(
        "hu-normalised hu-8bit hu-range", lambda: nifti(windowed(-1000, 1000, 100).astype("f4"))
    ),
    "windowed-16bit": in_gz("hu-range", lambda: nifti(windowed(-1000, 1000, 65535).astype("u2"))),
    "window-of-soft-tissue": in_gz("hu-range", lambda: nifti(np.clip(chest(), -160, 240))),
    "mri": in_gz("hu-range hu-offset", lambda: nifti((np.abs(chest() + 1000) * 0.7).astype("i2"))),
    "offset": in_gz("hu-offset", lambda: nifti(chest() + 1024)),
    "offset-unsigned": in_nii("hu-offset", lambda: nifti(np.maximum(chest() + 1024, 0).astype("u2"))),
    "offset-of-1000": in_gz("hu-offset", lambda: nifti(chest() + 1000)),
    "offset-beside-padding": in_gz("hu-offset", lambda: nifti(changed(-2000, corners(), base=chest() + 1024))),
    "intercept-twice": in_gz("hu-double-intercept", lambda: nifti(scl_inter=-1024)),
    "intercept-twice-stored": in_gz("hu-double-intercept", lambda: nifti(chest() - 1024)),
    "intercept-twice-beside-padding": in_gz("hu-double-intercept", lambda: nifti(padded(-3024), scl_inter=-1024)),
    "slope-absurd": in_gz("hu-range", lambda: nifti(scl_slope=1e30)),
    "garbage-int16": in_gz("hu-range", lambda: nifti(garbage("i2"))),
    "garbage-int8": in_gz("hu-range hu-8bit", lambda: nifti(garbage("i1"))),
    "garbage-uint64": in_gz("hu-range", lambda: nifti(garbage("u8"))),
    "garbage-int64": in_nii("hu-range", lambda: nifti(garbage("i8"))),
    "garbage-float32": in_gz("finite", lambda: nifti(garbage("f4"))),
    "garbage-large-float": in_gz("hu-range", lambda: nifti(chest() * 1e300)),
    "wrong-endian": in_gz("hu-range", lambda: nifti(chest().byteswap())),
    "blank-slice": in_gz("slices-blank", lambda: nifti(changed(-1024, np.s_[..., 20]))),
    "blank-slice-of-water": in_nii("slices-blank", lambda: nifti(changed(0, np.s_[..., 20]))),
    "blank-slices": in_gz("slices-blank", lambda: nifti(changed(0, np.s_[..., 18:22]))),
    "blank-slice-near-the-end": in_gz("slices-blank", lambda: nifti(changed(0, np.s_[..., 38]))),
    "blank-slice-permuted": in_gz("slices-blank", lambda: nifti(*turned(changed(0, np.s_[..., 20]), AFFINE, "SPL"))),
    "duplicate-slice": in_gz("slices-duplicate", lambda: nifti(copied(20, 21))),
    "duplicate-slice-added": in_gz("slices-duplicate", lambda: nifti(repeated(11))),
    "duplicate-first-slice": in_nii("slices-duplicate", lambda: nifti(copied(1, 0))),
    "duplicate-slice-permuted": in_gz("slices-duplicate", lambda: nifti(*turned(copied(20, 21), AFFINE, "ASR"))),
    "blank-and-duplicate-slices": in_gz(
        "slices-blank slices-duplicate", lambda: nifti(changed(-1024, np.s_[..., 30], base=copied(10, 11)))
    ),
}
