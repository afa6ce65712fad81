"""Make a phantom: paint the patient, fill the lungs with vessels, scan."""

from typing import NamedTuple

import numpy as np

from ctpa_vqgan.data.phantom.canvas import Canvas
from ctpa_vqgan.data.phantom.heart import draw_great_vessels, paint_heart
from ctpa_vqgan.data.phantom.patient import Patient, draw_patient
from ctpa_vqgan.data.phantom.pulmonary import Circulation, draw_circulation, grow_circulation, lung_points
from ctpa_vqgan.data.phantom.scan import paint_table, scan
from ctpa_vqgan.data.phantom.skeleton import draw_clavicles, paint_skeleton
from ctpa_vqgan.data.phantom.trunk import depth_in_wall, paint_trunk

FIELD_MM = 360.0  # a chest with some air around it
COARSE_MM = 4.5  # grid on which the vessels look for lung: two of its voxels lie between neighbouring twigs


class Phantom(NamedTuple):
    """A synthetic scan with its truth.

    Attributes:
        volume: HU, int16, shape [x, y, z] with x to the right, y to the front and z to the head (RAS). Laid out in
            memory slice after slice, as a NIfTI file is.
        labels: values of `LABELS`, uint8, same shape.
        affine: voxel index to millimetres, float64, shape [4, 4]; the origin is the centre of the volume.
    """

    volume: np.ndarray
    labels: np.ndarray
    affine: np.ndarray


def make_phantom(
    size: tuple[int, int, int] = (512, 512, 604),
    spacing_mm: tuple[float, float, float] = (0.7, 0.7, 0.6),
    seed: int = 0,
    noise_hu: float = 15.0,
    fit: bool = True,
) -> Phantom:
    """Make a contrast-enhanced chest with emboli in its pulmonary arteries.

    The seed is the patient: the same seed gives the same anatomy and the same emboli at every size and spacing.
    The default size and spacing show it true to scale.

    Args:
        size: voxels along x, y, z.
        spacing_mm: distance between voxels along x, y, z.
        seed: decides anatomy, vessels, emboli and noise.
        noise_hu: standard deviation of the noise, 0 for none.
        fit: True stretches the chest (about 360 mm a side) to fill any field of view, so that a phantom of
            64 x 64 x 48 voxels is still a whole chest and ``spacing_mm`` only goes into the affine. False keeps it
            life-size about the centre of the volume: a smaller field of view crops it, a larger one adds air.

    Raises:
        ValueError: if a size or spacing is not three positive numbers, or the noise is negative.

    Example:
        >>> volume, labels, affine = make_phantom(size=(64, 64, 48), spacing_mm=(5.6, 5.6, 7.5))
        >>> int((labels == LABELS["embolus"]).sum()) > 0
        True
    """
    if len(size) != 3 or min(size) < 1 or len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        raise ValueError(f"size and spacing_mm must be three positive numbers each, got {size} and {spacing_mm}")
    if noise_hu < 0:
        raise ValueError(f"noise_hu is a standard deviation and cannot be negative, got {noise_hu}")
    patient_seed, vessel_seed, noise_seed = np.random.SeedSequence(seed).spawn(3)
    patient = draw_patient(np.random.default_rng(patient_seed))
    step_mm = [FIELD_MM / n for n in size] if fit else spacing_mm
    # Dividing by the patient's scale lets all anatomy be written down once, for the mean patient.
    canvas = Canvas(size, tuple(step / scale for step, scale in zip(step_mm, patient.scale)))
    _paint_patient(canvas, patient)
    draw_circulation(canvas, _circulation(patient, vessel_seed, finest_mm=sum(canvas.voxel_mm) / 3))
    scan(canvas, noise_hu, np.random.default_rng(noise_seed))
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * mm for n, mm in zip(size, spacing_mm)]
    return Phantom(canvas.hu.T, canvas.labels.T, affine)


def _paint_patient(canvas: Canvas, patient: Patient) -> None:
    for s in canvas.slices():
        wall = depth_in_wall(s, patient)
        paint_trunk(s, patient, wall)
        paint_heart(s, patient)
        paint_skeleton(s, patient, wall)
        paint_table(s)
    draw_clavicles(canvas)
    draw_great_vessels(canvas)


def _circulation(patient: Patient, seed: np.random.SeedSequence, finest_mm: float) -> Circulation:
    """Grow the vessels in a coarse copy of the patient, always the same one, whatever grid they are drawn on."""
    side = round(FIELD_MM / COARSE_MM)
    coarse = Canvas((side, side, side), (COARSE_MM, COARSE_MM, COARSE_MM))
    _paint_patient(coarse, patient)
    rng = np.random.default_rng(seed)
    # A vessel much thinner than a voxel cannot be seen and only costs time.
    return grow_circulation(lung_points(coarse, rng), rng, min_mm=0.35 * finest_mm)
