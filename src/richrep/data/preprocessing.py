"""Preprocessing: image -> normalised tensor (3, H, W), as a value one can print, compare and hash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from richrep.data.decode import Decoded, as_image
from richrep.errors import unknown_name_message

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")

# Who resizes. Over photographs of 160 to 300 pixels enlarged to 256, torch's bytes were Pillow's but for 3 of 1,000
# values by 1 or 2 of 255; from float32 they differed by 0.2 in the mean, beside sharp edges by up to 24 (bicubic, which
# Pillow cuts off at 0 and 255 between its two passes).
Resizing = Literal["pillow", "torch-uint8", "torch-float32"]


def torch_resizing(device: torch.device) -> Resizing:
    """How torch resizes on `device`: on the CPU in bytes, two to five times as fast as Pillow; elsewhere in float32."""
    return "torch-uint8" if device.type == "cpu" else "torch-float32"


@dataclass(frozen=True)
class Geometry:
    """The part of the preprocessing that moves pixels; backbones that share it share the decoded tensor.

    Attributes:
        size_px: (height, width) of the result.
        resize_px: the shorter side before the centre crop, at least as long as the longer side of `size_px` (a crop
            would pad with black otherwise); None squashes the image to `size_px` without a crop.
        interpolation: "bilinear" or "bicubic" (antialiased, as Pillow does it), or "nearest".
    """

    size_px: tuple[int, int]
    resize_px: int | None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(unknown_name_message("interpolation", self.interpolation, INTERPOLATIONS))
        if min(self.size_px) < 1:
            raise ValueError(f"size_px must be (height, width), both at least 1, got {self.size_px}.")
        if self.resize_px is not None and self.resize_px < max(self.size_px):
            raise ValueError(
                f"resize_px must be at least {max(self.size_px)}, the longer side of size_px, got {self.resize_px}. "
                "A smaller image would be padded with black."
            )

    @property
    def needed_px(self) -> tuple[int, int]:
        """(height, width) that an image must have to be made smaller only."""
        return self.size_px if self.resize_px is None else (self.resize_px, self.resize_px)

    def keeps(self, height: int, width: int) -> bool:
        """Whether an image of this size comes out as it is."""
        return (height, width) == self.size_px and self.resize_px in (None, min(height, width))

    def apply(self, decoded: Decoded) -> np.ndarray:
        """RGB image -> uint8 (H, W, 3)."""
        height, width = self.size_px
        if isinstance(decoded, np.ndarray) and self.keeps(*decoded.shape[:2]):
            return decoded
        image = as_image(decoded)
        if not self.keeps(image.height, image.width):
            mode = InterpolationMode(self.interpolation)
            if self.resize_px is None:
                image = F.resize(image, [height, width], interpolation=mode)
            else:
                image = F.center_crop(F.resize(image, [self.resize_px], interpolation=mode), [height, width])
        return np.asarray(image, dtype=np.uint8)

    def apply_by_torch(self, pixels: torch.Tensor) -> torch.Tensor:
        """The same of RGB pixels uint8 (H, W, 3), on their device, by torch in place of Pillow: see `Resizing`."""
        if self.keeps(*pixels.shape[:2]):
            return pixels
        mode = (
            InterpolationMode.NEAREST_EXACT
            if self.interpolation == "nearest"
            else InterpolationMode(self.interpolation)
        )
        size = [*self.size_px] if self.resize_px is None else [self.resize_px]
        image = F.resize(pixels.permute(2, 0, 1), size, interpolation=mode, antialias=True)
        cropped: torch.Tensor = F.center_crop(image, [*self.size_px])
        return cropped.permute(1, 2, 0)


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop, scale to [0, 1], subtract `mean`, divide by `std` (per RGB channel)."""

    geometry: Geometry
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if not min(self.std) > 0:
            raise ValueError(f"std must be > 0 in every channel, got {self.std}.")

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), channels last in memory, on the device of `pixels`."""
        if pixels.dtype != torch.uint8:
            raise ValueError(f"pixels must be uint8 in [0, 255], got {pixels.dtype}.")
        images = pixels.permute(0, 3, 1, 2).to(torch.float32)  # (B, 3, H, W), strides stay those of (B, H, W, 3)
        mean = torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1) * 255
        return images.sub_(mean).div_(std)

    def describe(self) -> str:
        """One line for people, e.g. 'resize 256 (bilinear), crop 224x224, mean (0.485, …), std (0.229, …)'."""
        geometry = self.geometry
        height, width = geometry.size_px
        if geometry.resize_px is None:
            shape = f"squash to {height}x{width} ({geometry.interpolation})"
        else:
            shape = f"resize {geometry.resize_px} ({geometry.interpolation}), crop {height}x{width}"
        return f"{shape}, mean {self.mean}, std {self.std}"
