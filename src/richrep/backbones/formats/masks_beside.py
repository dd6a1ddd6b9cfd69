"""Masks that lie beside the weights of a file: they decide about weights, so a reading that skips them is wrong."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from richrep.errors import CheckpointError

_NO_MASK = "mask_token"  # of masked pretraining: what stands for a hidden patch


def check_no_masks(entries: Mapping[object, object], *, applied: Collection[str] = ()) -> None:
    """Raises CheckpointError when one of `entries`, all that a container holds beside the weights, holds masks.

    Args:
        applied: names of masks that the reading knows and applies.
    """
    masks = [name for name, value in entries.items() if isinstance(name, str) and _is_mask(name, value)]
    if unknown := [name for name in masks if name not in applied]:
        raise CheckpointError(
            f"holds masks ({', '.join(unknown)}) in a form that no known format has; without them its weights "
            "would be wrong. Multiply the weights by their masks and save the result."
        )


def _is_mask(name: str, value: object) -> bool:
    if "mask" not in name.lower() or name == _NO_MASK or value is None:
        return False
    if name in ("mask", "masks"):
        return True
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
    return any(hasattr(item, "shape") for item in items)  # tensors, arrays; deeper nesting nobody writes
