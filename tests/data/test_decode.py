from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageFile
from sklearn.datasets import load_sample_image
from torchvision.datasets.folder import pil_loader

from richrep.data.decode import as_image, decode_image, decoded_at_least
from richrep.data.preprocessing import Geometry
from richrep.errors import BadImageError

GREY = np.array([[0, 128], [200, 255]], dtype=np.uint8)


def encode(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    image = as_image(decode_image(data, position=17, name=lambda: "x.png"))
    assert image.mode == "RGB"
    return np.asarray(image)


def grey_of(pixels: np.ndarray) -> list[list[int]]:
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., 0].tolist()


def test_rgb_stays_and_grey_is_repeated() -> None:
    colour = Image.new("RGB", (2, 2), (10, 20, 30))
    assert decode(encode(colour))[0, 0].tolist() == [10, 20, 30]
    assert grey_of(decode(encode(Image.fromarray(GREY)))) == GREY.tolist()


def test_one_bit_images_become_black_and_white() -> None:
    assert grey_of(decode(encode(Image.fromarray(GREY).convert("1", dither=0)))) == [[0, 255], [255, 255]]


def test_transparency_is_dropped_and_the_colour_beneath_shows() -> None:
    assert decode(encode(Image.new("RGBA", (2, 2), (10, 20, 30, 0))))[0, 0].tolist() == [10, 20, 30]
    assert grey_of(decode(encode(Image.new("LA", (1, 1), (77, 3))))) == [[77]]


@pytest.mark.parametrize("transparency", [None, 0, b"\x00\x80"])
def test_palettes_give_their_colours_without_a_warning(transparency: int | bytes | None) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 150, 0])
    image.putpixel((1, 0), 1)
    options = {} if transparency is None else {"transparency": transparency}
    assert decode(encode(image, **options))[0].tolist() == [[200, 0, 0], [0, 150, 0]]


@pytest.mark.parametrize("colour", [(3, 3, 3), (9, 9, 9)])
def test_a_transparent_colour_of_an_rgb_png_changes_nothing(colour: tuple[int, int, int]) -> None:
    assert decode(encode(Image.new("RGB", (1, 1), (3, 3, 3)), transparency=colour))[0, 0].tolist() == [3, 3, 3]


def test_cmyk_and_ycbcr_become_rgb() -> None:
    # no ink but full cyan: red is absorbed
    assert decode(encode(Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "TIFF"))[0, 0].tolist() == [0, 255, 255]
    assert decode(encode(Image.new("YCbCr", (1, 1), (90, 128, 128)), "TIFF"))[0, 0].tolist() == [90, 90, 90]
    assert decode(encode(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG"))[0, 0].max() <= 3  # full black


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_not_clipped(file_format: str) -> None:
    # 65535 -> 255; 257 -> 1; 32896 = 128 * 257 -> 128; 300 * 255 / 65535 = 1.17 -> 1 (Pillow's own would clip to 255)
    deep = Image.fromarray(np.array([[0, 257], [32896, 65535], [300, 128]], dtype=np.uint16))
    assert grey_of(decode(encode(deep, file_format))) == [[0, 1], [128, 255], [1, 0]]


def test_big_endian_sixteen_bit_tiff_is_scaled() -> None:
    # II/MM decides the byte order: a hand-made big-endian TIFF, 1x2 pixels, values 0x0101 = 257 and 0xFFFF
    tags = [(256, 3, 2), (257, 3, 1), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 1)]
    tags.append((279, 4, 4))
    entries = b"".join(
        struct.pack(">HHI", tag, kind, 1) + (struct.pack(">HH", v, 0) if kind == 3 else struct.pack(">I", v))
        for tag, kind, v in tags
    )
    data = b"MM\x00\x2a" + struct.pack(">I", 12) + b"\x01\x01\xff\xff" + struct.pack(">H", len(tags)) + entries
    assert Image.open(io.BytesIO(data + b"\0" * 4)).mode == "I;16B"
    assert grey_of(decode(data + b"\0" * 4)) == [[1, 255]]


@pytest.mark.parametrize(("dtype", "what"), [(np.int32, "32-bit integers"), (np.float32, "floats")])
def test_values_without_a_known_range_are_refused(dtype: type, what: str) -> None:
    data = encode(Image.fromarray(np.array([[1, 2]], dtype=dtype)), "TIFF")
    with pytest.raises(BadImageError, match=rf"image 17 \(x.png\) cannot be decoded: its pixels are {what}"):
        decode(data)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_eight_bit_modes_agree_with_torchvisions_loader(mode: str, tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, size=(6, 5, 4), dtype=np.uint8)).convert(mode)
    data = encode(image)
    (tmp_path / "x.png").write_bytes(data)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Palette images with Transparency")  # theirs warns, ours must not
        reference = pil_loader(str(tmp_path / "x.png"))
    assert (decode(data) == np.asarray(reference)).all()


def test_only_the_first_frame_counts_and_orientation_is_not_applied() -> None:
    frames = [Image.new("L", (2, 2), value) for value in (10, 20)]
    assert grey_of(decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:])))[0][0] == 10
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    assert decode(encode(Image.new("RGB", (4, 2)), "JPEG", exif=exif)).shape == (2, 4, 3)


def test_an_empty_image_is_named() -> None:
    with pytest.raises(BadImageError, match=r"^image 17 \(x.png\) is empty \(0 bytes\)$"):
        decode(b"")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9])
def test_a_truncated_image_is_an_error_in_every_format(file_format: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), file_format)
    with pytest.raises(BadImageError, match=r"image 17 \(x.png\) cannot be decoded: \w+"):
        decode(data[: int(len(data) * kept)])


def test_bytes_that_are_no_image_are_an_error() -> None:
    with pytest.raises(BadImageError, match=r"cannot be decoded: not an image format that Pillow knows"):
        decode(b"<html>404 Not Found</html>")


def test_a_png_with_a_wrong_checksum_is_an_error() -> None:
    data = bytearray(encode(Image.fromarray(GREY)))
    data[data.index(b"IDAT") + 6] ^= 0xFF
    with pytest.raises(BadImageError, match=r"image 17 \(x.png\) cannot be decoded"):
        decode(bytes(data))


def png_that_claims(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0")
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, body, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [9_500, 60_000])  # 90 million pixels: Pillow warns; 3,600 million: it refuses itself
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_a_decompression_bomb_is_an_error_whatever_the_warning_filter_says(side: int, action: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        with pytest.raises(BadImageError, match=r"image 17 \(x.png\) cannot be decoded: .*decompression bomb"):
            decode(png_that_claims(side, side))


def test_the_limit_on_pixels_is_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("L", (20, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 399)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(BadImageError, match="20x20 pixels are more than the limit of 399"):
            decode(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    assert decode(data).shape == (20, 20, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(data).shape == (20, 20, 3)


def test_a_process_that_tolerates_truncated_images_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ValueError, match="LOAD_TRUNCATED_IMAGES is True"):
        decode(encode(Image.fromarray(GREY)))


def test_running_out_of_memory_is_not_the_images_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", out_of_memory)
    with pytest.raises(MemoryError):
        decode(b"x")


def photograph(name: str) -> Image.Image:
    """One of scikit-learn's two, 640 x 427 pixels."""
    return Image.fromarray(load_sample_image(name))


@pytest.mark.parametrize(("size_px", "expected"), [((106, 106), (320, 214)), ((107, 107), (640, 427))])
def test_a_jpeg_is_decoded_smaller_where_twice_the_size_remains(size_px, expected) -> None:
    data = encode(photograph("china.jpg"), "JPEG", quality=90)
    with decoded_at_least(size_px):
        assert as_image(decode_image(data, position=0, name=lambda: "x")).size == expected
    assert as_image(decode_image(data, position=0, name=lambda: "x")).size == (640, 427)


def test_other_formats_are_decoded_as_ever() -> None:
    data = encode(photograph("china.jpg"))
    with decoded_at_least((20, 20)):
        small = decode(data)
    assert np.array_equal(small, decode(data))


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
@pytest.mark.parametrize("size_px", [24, 48, 96])
def test_after_the_resize_scaled_decoding_differs_by_no_more_than_four_of_255_in_the_mean(
    name: str, size_px: int
) -> None:
    data = encode(photograph(name), "JPEG", quality=90)
    geometry = Geometry((size_px, size_px), size_px)
    with decoded_at_least(geometry.needed_px):
        scaled = geometry.apply(as_image(decode_image(data, position=0, name=lambda: "x")))
    plain = geometry.apply(as_image(decode_image(data, position=0, name=lambda: "x")))
    difference = np.abs(scaled.astype(int) - plain.astype(int))
    assert 0 < difference.mean() <= 4  # the stated tolerance; 0 would mean that nothing was scaled


def as_pillow_alone(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(32, 32), (33, 7), (1, 1), (640, 427)])
def test_jpegs_come_out_as_from_pillow_alone(size: tuple[int, int], subsampling: str, progressive: bool) -> None:
    photograph = Image.fromarray(load_sample_image("china.jpg")).resize(size)
    for mode in ("RGB", "L"):
        data = encode(photograph.convert(mode), "JPEG", subsampling=subsampling, progressive=progressive, quality=70)
        pixels = decode_image(data, position=0, name=lambda: "x")
        assert isinstance(pixels, np.ndarray)  # not Pillow's: the fast way was taken
        np.testing.assert_array_equal(pixels, as_pillow_alone(data))


def test_jpegs_that_store_rgb_come_out_as_from_pillow_alone() -> None:
    data = encode(Image.fromarray(load_sample_image("flower.jpg")).resize((50, 40)), "JPEG", keep_rgb=True)
    assert simplejpeg.decode_jpeg_header(data)[2] == "RGB"
    np.testing.assert_array_equal(decode_image(data, position=0, name=lambda: "x"), as_pillow_alone(data))


def test_jpegs_of_four_inks_and_those_with_a_stray_byte_are_left_to_pillow() -> None:
    # libjpeg-turbo's own conversion of CMYK differs from Pillow's by 1 of 255
    photograph = Image.fromarray(load_sample_image("flower.jpg")).resize((50, 40))
    ink = encode(photograph.convert("CMYK"), "JPEG")
    plain = encode(photograph, "JPEG")
    comment = plain.index(b"\xff\xdb")  # an extraneous byte before a marker, which decoders pass over with a warning
    for data in (ink, plain[:comment] + b"\x00" + plain[comment:]):
        image = decode_image(data, position=0, name=lambda: "x")
        assert isinstance(image, Image.Image)
        np.testing.assert_array_equal(np.asarray(image), as_pillow_alone(data))


def test_four_inks_in_ycck_are_left_to_pillow() -> None:
    ink = Image.fromarray(load_sample_image("flower.jpg")).resize((50, 40)).convert("CMYK")
    data = encode(ink, "JPEG", quality=90)
    marker = data.index(b"Adobe") + 11  # the transform: 0 says CMYK, 2 says YCCK, whose pixels are then others
    data = data[:marker] + b"\x02" + data[marker + 1 :]
    assert simplejpeg.decode_jpeg_header(data)[2] == "YCCK"
    image = decode_image(data, position=0, name=lambda: "x")
    assert isinstance(image, Image.Image)
    np.testing.assert_array_equal(np.asarray(image), as_pillow_alone(data))


def test_a_sampling_that_the_fast_decoder_has_no_name_for_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(data: bytes) -> tuple[int, int, str, str]:
        raise KeyError(6)  # as simplejpeg 1.9.0 for 4:4:1

    data = encode(Image.new("RGB", (4, 4), (90, 90, 90)), "JPEG")
    monkeypatch.setattr(simplejpeg, "decode_jpeg_header", unknown)
    assert isinstance(decode_image(data, position=0, name=lambda: "x"), Image.Image)


def test_a_jpeg_that_claims_to_be_huge_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 999)
    with pytest.raises(BadImageError, match=r"cannot be decoded: .*limit of 999"):
        decode(encode(Image.new("RGB", (40, 25)), "JPEG"))


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.999])
def test_a_jpeg_that_was_cut_off_is_an_error_at_any_length(kept: float) -> None:
    data = encode(Image.fromarray(load_sample_image("flower.jpg")).resize((64, 64)), "JPEG")
    with pytest.raises(BadImageError, match=r"image 17 \(x.png\) cannot be decoded: "):
        decode(data[: int(kept * len(data))])
