"""Files that must be read as they are."""

from __future__ import annotations

import numpy as np

from corpus.damage import members, same
from corpus.kinds import Legal, legal_nifti, legal_of
from corpus.metaimage import metaimage, metaimage_data
from corpus.nifti import extension, gz, nifti, pixdim, whole
from corpus.nrrd import nrrd
from corpus.patient import SHAPE, SPACING, chest, geometry, turned
from corpus.voxels import bright, changed, mediastinum, metal, padded

LEGAL = {
    "ras": legal_nifti(),
    "ras-nii": legal_nifti(suffix=".nii"),
    "lps": legal_nifti(axes="LPS"),
    "las": legal_nifti(axes="LAS"),
    "rpi": legal_nifti(axes="RPI"),
    "rai": legal_nifti(axes="RAI"),
    "lpi-nii": legal_nifti(axes="LPI", suffix=".nii"),
    "spl": legal_nifti(axes="SPL"),
    "asr": legal_nifti(axes="ASR"),
    "ilp-qform-only": legal_nifti(axes="ILP", sform=0),
    "oblique": legal_nifti(affine=geometry(degrees=10)),
    "oblique-lps": legal_nifti(axes="LPS", affine=geometry(degrees=10)),
    "oblique-permuted": legal_nifti(axes="SAL", affine=geometry(degrees=-10)),
    "oblique-qform-only": legal_nifti(affine=geometry(degrees=10), sform=0),
    "sform-only": legal_nifti(qform=0),
    "qform-only": legal_nifti(sform=0),
    "qfac-of-zero": legal_nifti(sform=0, pixdim=(0, *pixdim(*SPACING)[1:])),  # the standard reads it as 1
    "qfac-of-zero-beside-a-sform": legal_nifti(pixdim=(0, *pixdim(*SPACING)[1:])),
    "sform-in-aligned-space": legal_nifti(sform=2, qform=1),
    "sform-rounded": legal_nifti(pixdim=pixdim(0.80002, 0.80002, 1.25002)),
    "big-endian": legal_nifti(endian=">"),
    "big-endian-nii": legal_nifti(axes="LPS", endian=">", suffix=".nii"),
    "nifti2": legal_nifti(version=2),
    "nifti2-big-endian": legal_nifti(axes="LAS", version=2, endian=">"),
    "float32": legal_nifti(lambda: chest() + np.float32(0.25), truth=chest),
    "float64": legal_nifti(lambda: chest() - 0.375, truth=chest, suffix=".nii"),
    "int32": legal_nifti(lambda: chest().astype("i4")),
    "int64-big-endian": legal_nifti(lambda: chest().astype("i8"), endian=">"),
    "uint16-with-intercept": legal_nifti(
        lambda: np.maximum(chest() + 1024, 0).astype("u2"), truth=lambda: np.maximum(chest(), -1024), scl_inter=-1024
    ),
    "int16-with-intercept-nii": legal_nifti(lambda: chest() + 1024, truth=chest, scl_inter=-1024, suffix=".nii"),
    "slope-of-2": legal_nifti(
        lambda: (chest() + 1024) // 2, truth=lambda: chest() // 2 * 2, scl_slope=2, scl_inter=-1024
    ),
    "slope-of-1/16": legal_nifti(lambda: chest() * 16, truth=chest, scl_slope=1 / 16),
    "slope-of-0": legal_nifti(scl_slope=0),  # no scaling, says the standard
    "padding-2048": legal_nifti(lambda: padded(-2048)),
    "padding-3024": legal_nifti(lambda: padded(-3024)),
    "padding-2000-by-intercept": legal_nifti(lambda: padded(-976) + 1024, truth=lambda: padded(-976), scl_inter=-1024),
    "padding-of-two-values": legal_nifti(lambda: changed(-2000, np.s_[:8], np.s_[-8:], base=padded(-2048))),
    "metal-at-3071": legal_nifti(lambda: np.minimum(metal(12000), 3071)),
    "metal-to-12000": legal_nifti(lambda: metal(12000)),
    "metal-beyond-int16": legal_nifti(
        lambda: metal(60000, "f4"), truth=lambda: np.minimum(np.rint(metal(60000, "f4")), 32767)
    ),
    "clipped-to-12-bit": legal_nifti(lambda: np.clip(metal(9000), -1024, 3071)),
    "slices-of-0.6-mm": legal_nifti(affine=geometry((0.8, 0.8, 0.6))),
    "slices-of-5-mm": legal_nifti(affine=geometry((0.8, 0.8, 5))),
    "unequal-pixels": legal_nifti(affine=geometry((0.7, 0.8, 1.5))),
    "isotropic": legal_nifti(affine=geometry((1.5, 1.5, 1.5))),
    "one-mm-voxels-somewhere": legal_nifti(affine=geometry((1, 1, 1))),
    "not-square": legal_nifti(lambda: chest()[:, 6:58]),
    "three-equal-sides": legal_nifti(lambda: chest((48, 48, 48))),
    "long": legal_nifti(lambda: chest((40, 40, 200))),
    "smallest": legal_nifti(lambda: chest((32, 32, 8), noise=3.0)),
    "one-phase": Legal(".nii.gz", lambda: gz(nifti(chest()[..., None]))),
    "unused-sides-of-zero": legal_nifti(dim=(3, *SHAPE, 0, 0, 0, 0)),
    "gzip-members": Legal(".nii.gz", lambda: members(same, same)),
    "gzip-level-0": Legal(".nii.gz", lambda: gz(nifti(), level=0)),
    "gzip-level-9": Legal(".nii.gz", lambda: gz(nifti(), level=9)),
    "gzip-with-a-file-name": Legal(
        ".nii.gz", lambda: whole()[:3] + b"\x08" + whole()[4:10] + b"chest.nii\0" + whole()[10:]
    ),
    "upper-case-name": Legal(".NII.GZ", whole),
    "units-unknown": legal_nifti(xyzt_units=0),
    "units-mm-only": legal_nifti(xyzt_units=2),
    "comment-extension": legal_nifti(extension=extension(b"resampled to 0.8 x 0.8 x 1.25 mm")),
    "json-extension": legal_nifti(
        extension=extension(b'{"Modality": "CT", "KVP": 120, "ConversionSoftware": "dcm2niix"}')
    ),
    "xml-extension-nii": legal_nifti(
        extension=extension(b"<?xml version='1.0' ?><AFNI_attributes/>", code=4), suffix=".nii"
    ),
    "descrip-totalsegmentator": legal_nifti(descrip=b"TotalSegmentator"),
    "descrip-fsl": legal_nifti(descrip=b"FSL5.0"),
    "descrip-fsl-6": legal_nifti(descrip=b"6.0.5:9e026117", aux_file=b"none"),
    "descrip-dcm2niix": legal_nifti(descrip=b"TE=2;Time=123456.000", aux_file=b"imgComments"),
    "descrip-spm": legal_nifti(descrip=b"spm - 3D normalized", intent_name=b"HU"),
    "mediastinum": legal_nifti(mediastinum),
    "mediastinum-of-bright-contrast": legal_nifti(lambda: bright(mediastinum())),
    "bright-contrast": legal_nifti(lambda: bright(chest())),
    "low-noise": legal_nifti(lambda: chest(noise=3.0)),
    "high-noise": legal_nifti(lambda: chest(noise=120.0)),
    "nrrd-raw": legal_of(nrrd, ".nrrd"),
    "nrrd-gzip": legal_of(lambda: nrrd(encoding="gzip"), ".nrrd"),
    "nrrd-ras": legal_of(lambda: nrrd(encoding="gzip", space="right-anterior-superior"), ".nrrd"),
    "nrrd-big-endian": legal_of(lambda: nrrd(endian=">"), ".nrrd"),
    "nrrd-float": legal_of(lambda: nrrd(chest() + np.float32(0.25)), ".nrrd"),
    "nrrd-permuted": legal_of(
        lambda: nrrd(*turned(chest(), geometry(degrees=10), "SPL")), ".nrrd", geometry(degrees=10)
    ),
    "nrrd-with-keys": legal_of(lambda: nrrd(encoding="gzip", keys={"SourceSoftware": "3D Slicer 5.6"}), ".nrrd"),
    "mha-raw": legal_of(metaimage, ".mha"),
    "mha-compressed": legal_of(lambda: metaimage(compressed=True), ".mha"),
    "mha-big-endian": legal_of(lambda: metaimage(endian=">"), ".mha"),
    "mha-oblique": legal_of(
        lambda: metaimage(*turned(chest(), geometry(degrees=10), "LPS")), ".mha", geometry(degrees=10)
    ),
    "mhd-and-raw": legal_of(
        lambda: {"pair.mhd": metaimage(file="pair.raw"), "pair.raw": metaimage_data(chest())}, ".mhd"
    ),
    "mhd-and-zraw": legal_of(
        lambda: {
            "pair.mhd": metaimage(file="pair.zraw", compressed=True),
            "pair.zraw": metaimage_data(chest(), compressed=True),
        },
        ".mhd",
    ),
}

# scans that begin and end in air: read as they are, and a warning is not wrong
BLANK_ENDS = {
    "padded-slices-at-both-ends": legal_nifti(lambda: changed(-2048, np.s_[..., :2], np.s_[..., -3:])),
    "air-at-both-ends": legal_nifti(lambda: changed(-1000, np.s_[..., :3], np.s_[..., -2:])),
    "air-of-1024-at-both-ends": legal_nifti(lambda: changed(-1024, np.s_[..., :1], np.s_[..., -4:])),
    "air-at-one-end-permuted": legal_nifti(lambda: changed(-1000, np.s_[..., -3:]), axes="SPL"),
}
