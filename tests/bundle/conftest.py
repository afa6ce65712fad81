"""What the tests of the bundle share: a small overlay, a training by it, and files that are no CT."""

import nibabel as nib
import numpy as np
import pytest
from the_bundle import ROOT, run

TINY = """# Seconds on one core.
patch_size: [32, 32, 16]
num_samples: 3
channels: [4, 8]
num_embeddings: 16
codebook_init_steps: 1
max_epochs: 2
val_interval: 1
batch_size: 2
micro_batch_size: 2
adversarial_start: 3
discriminator_channels: 4
discriminator_layers: 1
progress: false
log_interval: 1
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("overlay") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def trained(phantom_folder, tiny, tmp_path_factory):
    """The output of a training run."""
    output = tmp_path_factory.mktemp("runs") / "first"
    overlays = ["--overlay", ROOT / "configs/smoke.yaml", "--overlay", tiny]
    assert run("train", "--data", phantom_folder, "--output", output, *overlays) == 0
    return output


@pytest.fixture
def not_ct(tmp_path):
    """A folder of segmentations."""
    folder = tmp_path / "masks"
    folder.mkdir()
    mask = np.eye(40, dtype=np.uint8)[..., None].repeat(40, 2)
    for name in "ab":
        nib.save(nib.Nifti1Image(mask, np.diag([2, 2, 3, 1])), folder / f"{name}.nii.gz")
    return folder
