"""Random views: the draws, their limits and their independence."""

import numpy as np
import pytest
from PIL import Image

from richrep.data.augment import RandomView, view_generator
from richrep.data.preprocessing import Geometry

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
GEOMETRY = Geometry((30, 40), None, "bilinear")


def view_of(view: RandomView, *, seed: int = 0, draw: int = 0, row: int = 0) -> np.ndarray:
    return view.apply(IMAGE, GEOMETRY, view_generator(seed=seed, draw=draw, row=row))


def test_a_view_depends_on_seed_draw_and_row_alone():
    first = view_of(RandomView())
    np.testing.assert_array_equal(first, view_of(RandomView()))
    for other in ({"seed": 1}, {"draw": 1}, {"row": 1}):
        assert (first != view_of(RandomView(), **other)).any()


def test_the_whole_image_without_flip_is_the_image():
    # all of the area in the image's own ratio 4/3 leaves one crop
    np.testing.assert_array_equal(view_of(RandomView(scale=(1, 1), ratio=(4 / 3, 4 / 3), flip=0)), np.asarray(IMAGE))


def test_flip_of_probability_one_mirrors():
    view = RandomView(scale=(1, 1), ratio=(4 / 3, 4 / 3), flip=1)
    np.testing.assert_array_equal(view_of(view), np.asarray(IMAGE)[:, ::-1])


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 0.6)])
def test_crops_lie_in_the_image_and_have_the_area_and_ratio_asked_for(scale):
    view = RandomView(scale=scale)
    for row in range(200):
        left, top, width, height = view._crop(400, 300, view_generator(seed=0, draw=0, row=row))
        assert 0 <= left <= 400 - width and 0 <= top <= 300 - height
        assert scale[0] - 0.01 < width * height / 120_000 < scale[1] + 0.01
        assert 0.74 < width / height < 1.36


def test_an_image_too_long_for_any_ratio_gives_its_largest_centre():
    # 100 x 10 at a ratio of at most 4/3: 13 x 10 in the middle
    assert RandomView(scale=(1, 1))._crop(100, 10, view_generator(seed=0, draw=0, row=0)) == (43, 0, 13, 10)
    assert RandomView(scale=(1, 1))._crop(10, 100, view_generator(seed=0, draw=0, row=0)) == (0, 43, 10, 13)


@pytest.mark.parametrize(
    ("option", "message"),
    [({"scale": (0, 1)}, r"scale .*\(0, 1\)"), ({"ratio": (2, 1)}, r"ratio .*\(2, 1\)"), ({"flip": 1.5}, "flip .*1.5")],
)
def test_options_that_cannot_be_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        RandomView(**option)
