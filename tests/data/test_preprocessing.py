from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from richrep.data.preprocessing import INTERPOLATIONS, Geometry, Preprocessing, torch_resizing


def random_image(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8))


def test_an_image_of_the_right_size_passes_untouched() -> None:
    image = random_image(32, 32)
    for resize_px in (None, 32):
        assert (Geometry((32, 32), resize_px).apply(image) == np.asarray(image)).all()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(50, 30), (30, 50), (20, 20)])
def test_resize_and_crop_agree_with_torchvisions_evaluation_transform(
    interpolation: str, size: tuple[int, int]
) -> None:
    image = random_image(*size)
    mode = transforms.InterpolationMode(interpolation)
    reference = transforms.Compose([transforms.Resize(28, interpolation=mode), transforms.CenterCrop((24, 20))])
    assert (Geometry((24, 20), 28, interpolation).apply(image) == np.asarray(reference(image))).all()


def photograph(width: int, height: int) -> Image.Image:
    """Smooth colours with one sharp edge, as photographs have, which noise has not."""
    rows, columns = np.mgrid[0:height, 0:width] / 20
    pixels = 128 + 100 * np.stack([np.sin(rows), np.cos(columns), np.sin(rows + columns)], axis=2)
    pixels[: height // 2, : width // 3] = 255
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("resize_px", [None, 28, 90])
@pytest.mark.parametrize("size", [(50, 31), (31, 50), (24, 28), (200, 150)])
def test_torch_resizes_bytes_as_pillow_does_but_for_rounding(
    interpolation: str, resize_px: int | None, size: tuple[int, int]
) -> None:
    image, geometry = photograph(*size), Geometry((24, 28), resize_px, interpolation)
    pixels = torch.from_numpy(np.array(image))
    plain, fast = geometry.apply(image).astype(int), geometry.apply_by_torch(pixels)
    assert fast.dtype == torch.uint8
    difference = np.abs(plain - fast.numpy().astype(int))
    if interpolation == "nearest":  # halfway between two pixels they round to different ones
        assert (difference > 0).mean() < 0.1
    else:
        assert difference.max() <= 2 and difference.mean() < 0.05
    assert (pixels.numpy() == np.asarray(image)).all()  # left alone


def test_torch_resizes_bytes_on_the_cpu_and_floats_elsewhere() -> None:
    assert torch_resizing(torch.device("cpu")) == "torch-uint8"
    assert torch_resizing(torch.device("cuda:1")) == torch_resizing(torch.device("mps")) == "torch-float32"


def test_an_image_of_the_final_size_is_still_enlarged_when_the_resize_asks_for_more() -> None:
    pixels = Geometry((20, 20), 40).apply(random_image(20, 20))
    assert pixels.shape == (20, 20, 3)
    assert (pixels != np.asarray(random_image(20, 20))).any()


def test_without_a_resize_the_image_is_squashed() -> None:
    left_black_right_white = Image.new("RGB", (40, 10))
    left_black_right_white.paste((255, 255, 255), (20, 0, 40, 10))
    pixels = Geometry((10, 10), None, "nearest").apply(left_black_right_white)
    assert pixels[0, :, 0].tolist() == [0] * 5 + [255] * 5  # a crop of 10 in the middle would show the same edge …
    assert (
        pixels.shape == (10, 10, 3) and (Geometry((10, 10), 10, "nearest").apply(random_image(40, 10)) != pixels).any()
    )


def test_geometry_refuses_what_would_pad_or_cannot_be_read() -> None:
    with pytest.raises(ValueError, match=r"resize_px must be at least 224, .* got 200\."):
        Geometry((224, 160), 200)
    with pytest.raises(ValueError, match=r"Unknown interpolation 'bilinaer'. Did you mean 'bilinear'"):
        Geometry((8, 8), 8, "bilinaer")
    with pytest.raises(ValueError, match=r"size_px must be .* got \(0, 8\)"):
        Geometry((0, 8), 8)


def test_equal_geometries_are_one_key() -> None:
    assert len({Geometry((8, 8), 8), Geometry((8, 8), 8, "bilinear"), Geometry((8, 8), None)}) == 2


def test_normalize_by_hand() -> None:
    # 255 -> 1.0, (1 - 0.5) / 0.25 = 2; 0 -> (0 - 0.5) / 0.25 = -2; 51 -> 0.2, (0.2 - 0.1) / 0.5 = 0.2
    preprocessing = Preprocessing(Geometry((1, 1), 1), mean=(0.5, 0.5, 0.1), std=(0.25, 0.25, 0.5))
    pixels = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 1, 1, 3)
    images = preprocessing.normalize(pixels)
    assert images.shape == (1, 3, 1, 1) and images.dtype == torch.float32
    assert images.flatten().tolist() == pytest.approx([2.0, -2.0, 0.2], abs=1e-6)


def test_normalize_agrees_with_torchvision_and_is_channels_last() -> None:
    image = random_image(5, 4)
    preprocessing = Preprocessing(Geometry((4, 5), None))
    reference = transforms.Compose([transforms.ToTensor(), transforms.Normalize(preprocessing.mean, preprocessing.std)])
    images = preprocessing.normalize(torch.tensor(np.asarray(image))[None].repeat(2, 1, 1, 1))
    assert images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(images[1], reference(image), rtol=1e-5, atol=1e-5)


def test_normalize_leaves_its_input_alone_and_refuses_floats() -> None:
    pixels = torch.full((1, 2, 2, 3), 100, dtype=torch.uint8)
    preprocessing = Preprocessing(Geometry((2, 2), 2))
    preprocessing.normalize(pixels)
    assert (pixels == 100).all()
    with pytest.raises(ValueError, match=r"pixels must be uint8 .* got torch.float32"):
        preprocessing.normalize(pixels.float())


def test_a_standard_deviation_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"std must be > 0 .* got \(0\.2, 0\.0, 0\.2\)"):
        Preprocessing(Geometry((2, 2), 2), std=(0.2, 0.0, 0.2))


def test_describe_says_what_happens_to_an_image() -> None:
    preprocessing = Preprocessing(Geometry((224, 224), 256, "bicubic"), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert preprocessing.describe() == ("resize 256 (bicubic), crop 224x224, mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5)")
    assert Preprocessing(Geometry((8, 9), None)).describe().startswith("squash to 8x9 (bilinear), mean")
