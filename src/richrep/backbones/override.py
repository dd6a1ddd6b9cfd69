"""Preprocessing set by hand, over what a format, a library or a file says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from richrep.backbones.backbone import Backbone
from richrep.backbones.input_size import for_images_of
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import RichrepError, unknown_name_message

KEYS = ("size", "resize", "interpolation", "mean", "std")


def override_preprocessing(backbone: Backbone, settings: Iterable[str]) -> Backbone:
    """The backbone with `settings` in place of its own preprocessing; the same backbone for no settings.

    Args:
        settings: KEY=VALUE with the keys `size` (px of the square crop), `resize` (px of the shorter side before it, or
            `squash`), `interpolation`, `mean` and `std` (three numbers with commas between them). A size alone keeps
            the proportion between resize and crop.

    Raises:
        RichrepError: an unknown key, a value that it cannot have, or a size that the network cannot take.
    """
    chosen: dict[str, str] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in KEYS:
            raise RichrepError(unknown_name_message("preprocessing setting", key, KEYS))
        chosen[key] = value
    if not chosen:
        return backbone
    try:
        preprocessing = _override(backbone.preprocessing, chosen)
    except ValueError as error:
        listed = ", ".join(f"{key}={value}" for key, value in chosen.items())
        raise RichrepError(
            f"Preprocessing {listed} cannot be used: {error} Example: size=224 resize=256 interpolation=bicubic "
            "mean=0.5,0.5,0.5 std=0.5,0.5,0.5."
        ) from None
    changed = for_images_of(backbone, preprocessing)
    report = [*backbone.load_report, f"preprocessing set by hand: {', '.join(chosen)}"]
    if changed.trunk is not backbone.trunk:
        report.append("network set to this size, its positions resampled (bicubic)")
    return replace(changed, load_report=tuple(report))


def _override(own: Preprocessing, chosen: dict[str, str]) -> Preprocessing:
    geometry = own.geometry
    size, resize = geometry.size_px, geometry.resize_px
    if "size" in chosen:
        side = int(chosen["size"])
        if resize is not None:
            resize = max(side, round(resize * side / max(size)))
        size = (side, side)
    if "resize" in chosen:
        resize = None if chosen["resize"] == "squash" else int(chosen["resize"])
    return Preprocessing(
        Geometry(size, resize, chosen.get("interpolation", geometry.interpolation)),
        mean=_three(chosen["mean"]) if "mean" in chosen else own.mean,
        std=_three(chosen["std"]) if "std" in chosen else own.std,
    )


def _three(text: str) -> tuple[float, float, float]:
    numbers = [float(number) for number in text.split(",")]
    if len(numbers) != 3:
        raise ValueError(f"expected three numbers with commas between them, got {text!r}.")
    return numbers[0], numbers[1], numbers[2]
