"""Values that lie where an intercept was forgotten or applied twice are told from padding."""

import numpy as np
import pytest

from ctpa_vqgan.data.checks.voxels import check_voxels
from ctpa_vqgan.errors import BadVolume


@pytest.mark.parametrize(("offset", "rule"), [(1024, "hu-offset"), (1000, "hu-offset"), (-1024, "hu-double-intercept")])
@pytest.mark.parametrize("padding", [-2048, -2000, -3024])
def test_an_offset_is_found_though_padding_is_shifted_into_the_place_of_air(phantom, offset, rule, padding):
    voxels = np.asarray(phantom.volume).astype(int)
    voxels[voxels == -2048] = padding
    assert (voxels == padding).any()
    check_voxels(voxels.astype(np.int16), "ct.nii")
    with pytest.raises(BadVolume) as error:
        check_voxels((voxels + offset).astype(np.int16), "ct.nii")
    assert error.value.rule == rule
