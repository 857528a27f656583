"""Contrast of pictures."""

import numpy as np

from bestiary.inputs.contrast import MinMaxNormalize


def test_levels_are_stretched_and_a_shift_and_scale_before_it_do_not_count():
    rng = np.random.default_rng(0)
    picture = rng.integers(30, 200, size=(7, 5, 3), dtype=np.uint8)
    found = MinMaxNormalize()(dict(img=picture.copy()))["img"]
    shifted = (picture.astype(np.float64) - 157.561) / 26.706
    expected = (shifted - shifted.min()) / (shifted.max() - shifted.min()) * 255
    assert found.dtype == np.float32 and found.min() == 0 and abs(found.max() - 255) < 1e-4
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_one_level_becomes_0():
    assert (MinMaxNormalize()(dict(img=np.full((2, 3, 3), 9, np.uint8)))["img"] == 0).all()
