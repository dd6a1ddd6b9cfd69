"""Encoded bytes -> RGB image; an image that cannot be decoded whole is an error with its name and position."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeAlias

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

from richrep.errors import BadImageError

_SAME_COLOURS = ("YCbCr", "Gray", "RGB")
Decoded: TypeAlias = Image.Image | np.ndarray  # RGB, as its decoder gave it: Pillow's image, or uint8 (H, W, 3)

_at_least_px: ContextVar[tuple[int, int] | None] = ContextVar("at_least_px", default=None)


# At 1 the pixels of 20 photographs and drawings differed by 3 of 255 in the mean and SqueezeNet's features by 8 %; at 2
# by 0.9 and 3 %, and 1100-pixel JPEGs still took 40 % of the time.
_MARGIN = 2


@contextlib.contextmanager
def decoded_at_least(size_px: tuple[int, int]) -> Iterator[None]:
    """Inside, and in this thread, JPEGs at least four times as large as `size_px` (height, width) come out smaller.

    They are decoded at 1/2, 1/4 or 1/8 of their size, at least twice as large as `size_px`: the decoder leaves out the
    finest frequencies, and most of the time. Everything else is decoded as ever. After a resize to `size_px` the pixels
    differ from the plain path by about 1 of 255 in the mean over an image, by up to 4 where it is full of fine lines. A
    context and not an argument, because the stores between the caller and `decode_image` have no use for it.
    """
    token = _at_least_px.set(size_px)
    try:
        yield
    finally:
        _at_least_px.reset(token)


def decode_image(data: bytes | memoryview, *, position: int, name: Callable[[], str]) -> Decoded:
    """The first frame of the encoded image `data` as RGB, from any of Pillow's modes.

    Transparency is dropped (the colour beneath it shows), EXIF orientation is not applied, 16-bit grey is scaled to
    8 bits. The first two as torchvision's image folders do.

    Args:
        data: the encoded image, in any format Pillow reads.
        position, name: where the image lies; for the error only, which alone asks for the name.

    Raises:
        BadImageError: `data` is empty, truncated or corrupt, holds more than `PIL.Image.MAX_IMAGE_PIXELS` pixels, or
            values whose range is not known (32-bit integers, floats).
        ValueError: another library switched Pillow's `LOAD_TRUNCATED_IMAGES` on, which would fill what is missing
            with grey.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ValueError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True, which hides damaged images. Set it to False.")
    if not data:
        raise bad_image("is empty (0 bytes)", position=position, name=name())
    needed_px = _at_least_px.get()
    pixels = _decode_jpeg(data) if needed_px is None else None
    if pixels is not None:
        return pixels
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_pixel_count(image)
            if needed_px is not None:
                height, width = needed_px
                image.draft(None, (_MARGIN * width, _MARGIN * height))  # a minimum; only JPEGs heed it
            return _to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise whatever they stumble on: OSError, SyntaxError, struct.error …
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "not an image format that Pillow knows"
        raise bad_image(f"cannot be decoded: {reason}", position=position, name=name()) from error


def as_image(decoded: Decoded) -> Image.Image:
    """`decoded` as Pillow's image."""
    return decoded if isinstance(decoded, Image.Image) else Image.fromarray(decoded)


def _decode_jpeg(data: bytes | memoryview) -> np.ndarray | None:
    """The pixels of a JPEG, uint8 (H, W, 3); None where Pillow has to look: no JPEG, damaged, huge, or of four inks.

    Both stand on libjpeg-turbo and give the same pixels of what is listed here; of four inks they differ by up to 2 of
    255. Pillow takes 90 us for a CIFAR image and this 14 us, in one thread; the network may take as little as 250 us.
    """
    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        limit = Image.MAX_IMAGE_PIXELS
        if colours not in _SAME_COLOURS or (limit is not None and height * width > limit):
            return None
        pixels: np.ndarray = simplejpeg.decode_jpeg(data)  # strict: a warning of the decoder is an error, too
    except MemoryError:
        raise
    except Exception:  # KeyError, too, for a sampling that it has no name for
        return None
    return pixels


def bad_image(problem: str, *, position: int, name: str) -> BadImageError:
    """The error for one image, e.g. 'image 17 (train.parquet row 17) cannot be decoded: …'."""
    return BadImageError(f"image {position} ({name}) {problem}")


def _check_pixel_count(image: Image.Image) -> None:
    """Refuses what Pillow only warns about: a small file that claims to be a huge image."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(
            f"{image.width}x{image.height} pixels are more than the limit of {limit} against decompression bombs. "
            "Raise PIL.Image.MAX_IMAGE_PIXELS if the image can be trusted."
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):  # both hold 16 bits in an "I"
        return _grey16_to_rgb(image)
    if mode in ("I", "F"):
        kind = "32-bit integers" if mode == "I" else "floats"
        raise ValueError(f"its pixels are {kind} (mode {mode}), whose range is not known. Store it with 8 or 16 bits.")
    if mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB Pillow warns about transparent palettes
    return image.convert("RGB")


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    """0 … 65535 -> 0 … 255, rounded; Pillow's own conversion clips at 255."""
    values = np.asarray(image).astype(np.uint32)
    grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
