"""Every rule that a volume must meet, with its threshold and the way out: the one home of these facts."""

from __future__ import annotations

import os
from typing import NamedTuple

from ctpa_vqgan.errors import BadVolume

MIN_SIDE, MIN_SLICES = 32, 8  # voxels in plane, slices
MAX_SHEAR = 0.005  # cosine between two voxel axes: 0.3 degrees of gantry tilt
GEOMETRY_TOLERANCE = 1e-3  # relative, between header fields that state the same geometry
POSITION_TOLERANCE = 0.1  # share of the slice spacing by which a DICOM slice may be off its place
MIN_SPACING_MM, MAX_SPACING_MM = 0.05, 20.0
MIN_THICKNESS_MM, MAX_THICKNESS_MM = 0.3, 6.0  # outside: a warning
AIR_BELOW_HU, TISSUE_ABOVE_HU = -500, 100  # a CT of the trunk reaches beyond both
SOFT_TISSUE_HU = (-150, 250)
MIN_SOFT_TISSUE = 0.02  # share of the voxels that are not padding
PADDING_BELOW_HU = -1500  # nothing physical lies there: scanners' padding of -2000, -2048, -3024
MAX_MASK_VALUES = 150  # distinct values: label maps of organs have up to 120
MAX_JUMP = 2.0  # change between two slices, against the larger change on either side of them


class Rule(NamedTuple):
    """What a rule expects and what a user can do; one that ``warns`` does not refuse."""

    expects: str
    way_out: str
    warns: bool = False


class Finding(NamedTuple):
    """A warning: the rule and what was measured."""

    rule: str
    found: str


AGAIN = "export or copy the file again"

RULES = {
    # the file
    "unreadable": Rule("a readable volume", AGAIN),
    "extension": Rule(
        "a name that tells the truth about compression (.nii.gz is gzip, .nii is not)", "rename the file"
    ),
    "gzip": Rule("a gzip stream that is whole, with the right checksum", AGAIN),
    "payload": Rule("as many bytes of voxels as the header states", AGAIN),
    "header": Rule("a valid header", AGAIN),
    "dimensions": Rule("one 3-D volume (4-D with one phase will do)", "split phases or channels into files"),
    "voxel-type": Rule("one number a voxel, integer or float", "export the CT in HU, not as a colour picture"),
    "scaling": Rule("a usable rescale slope and intercept", "export the volume again, in HU"),
    "finite": Rule("finite voxels", "export the volume again, without NaN or infinity"),
    # geometry
    "affine": Rule("an affine of finite numbers that spans a volume", "restore the geometry from the original"),
    "affine-identity": Rule(
        "a voxel size and position (identity, in RAS or LPS, is what is written when they are unknown)",
        "restore the geometry from the original",
    ),
    "affine-shear": Rule(
        f"voxel axes at right angles (cosine at most {MAX_SHEAR}; gantry tilt shears)",
        "resample to a straight grid (3D Slicer: acquisition geometry regularization)",
    ),
    "affine-pixdim": Rule(
        f"voxel sizes above 0 that agree with the affine to {GEOMETRY_TOLERANCE:.1%}",
        "restore the geometry from the original",
    ),
    "affine-qform": Rule(
        "a qform that agrees with the sform, to half a voxel at the corners", "set both from the original's geometry"
    ),
    "units": Rule("lengths in mm, or unknown", "write the affine in mm and set xyzt_units to mm"),
    "slice-axis": Rule(
        "axial slices (where two of three sides or spacings are equal, the third must be along the patient)",
        "turn the axes, or leave out coronal and sagittal reformats",
    ),
    "spacing": Rule(
        f"voxels of {MIN_SPACING_MM:g} to {MAX_SPACING_MM:g} mm", "restore the geometry from the original, in mm"
    ),
    "size": Rule(
        f"in-plane sides of at least {MIN_SIDE} voxels and at least {MIN_SLICES} slices", "give the whole scan"
    ),
    "shrink": Rule("at least as many voxels along every axis as prepare's --size", "give a smaller --size, or none"),
    "thickness": Rule(
        f"slices between {MIN_THICKNESS_MM:g} and {MAX_THICKNESS_MM:g} mm apart", "prefer a thin series", warns=True
    ),
    # values
    "hu-constant": Rule("voxels that differ", "export the volume again"),
    "hu-mask": Rule("a CT in HU, not a label map", "give the image, not its segmentation"),
    "hu-normalised": Rule("HU, not values normalised to a small range", "undo the normalisation or export again"),
    "hu-8bit": Rule("HU, not grey values of 8 bit", "export HU instead of a windowed picture"),
    "hu-offset": Rule("air near -1000 HU", "subtract the offset (1024 as a rule): the rescale intercept was left out"),
    "hu-double-intercept": Rule("air near -1000 HU", "add 1024: the rescale intercept was applied twice"),
    "hu-range": Rule(
        f"HU: air below {AIR_BELOW_HU}, tissue above {TISSUE_ABOVE_HU}, and at least {MIN_SOFT_TISSUE:.0%} of the "
        f"voxels between {SOFT_TISSUE_HU[0]} and {SOFT_TISSUE_HU[1]}",
        "export Hounsfield units (rescale slope and intercept applied once)",
    ),
    "slices-blank": Rule("no slice of one value inside the scan", "export the series again, with all its slices"),
    "slices-duplicate": Rule("no two equal slices side by side", "export the series again without duplicates"),
    "slices-missing": Rule(
        f"slices that change evenly (at most {MAX_JUMP:g} times the change on either side)",
        "look there: slices may be missing, or a table or an implant begins",
        warns=True,
    ),
    # DICOM
    "dicom-damaged": Rule("files that can be read to the end", "export the series again"),
    "dicom-modality": Rule("modality CT", "give CT series only"),
    "dicom-rescale": Rule("rescale slope and intercept in every slice", "export the series again, as CT images"),
    "dicom-position": Rule("a position and an orientation in every slice", "export the series again, as CT images"),
    "dicom-orientation": Rule("one orientation in the series", "split the series by orientation"),
    "dicom-duplicate": Rule("one slice a position", "remove one of the duplicates, or split the acquisitions"),
    "dicom-gap": Rule(
        f"evenly spaced slices (each within {POSITION_TOLERANCE:.0%} of the spacing)",
        "export the series again, with all its slices",
    ),
    "dicom-spacing": Rule("one positive pixel spacing in the series", "export the series again"),
    "dicom-size": Rule("one image size in the series", "split the series by image size"),
    # warnings
    "dicom-lossy": Rule("voxels not compressed with loss", "prefer the original, if there is one", warns=True),
    "patient-name": Rule("no patient data in header texts", "it is left out of what is written", warns=True),
    "shared-voxels": Rule(
        "volumes of different scans", "keep one of them, or name their patient with --patients", warns=True
    ),
}


def refuse(rule: str, path: str | os.PathLike, found: str) -> BadVolume:
    """The error to raise when a volume breaks a rule."""
    return BadVolume(path, rule, RULES[rule].expects, found, RULES[rule].way_out)
