"""Rows: features (N, D) that are read by blocks of rows, wherever they lie: in memory or in mapped files, in one
tensor or in several side by side, in half or in full precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


class Rows:
    """Features (N, D) of one or more members side by side; nothing is copied until rows are read.

    Args:
        members: M tensors (N, D_m) of any floating type, on one device.
        index: (n,) the rows that count, in this order; None means all.
        device: where rows are read to, such as an accelerator for members in mapped files; None means where they lie.

    Attributes:
        shape: (n, D1 + D2 + …).
        dtype: what is read: float64 when a member is, else float32. Half precision is converted by the block.
        device: of what is read.
    """

    ndim = 2

    def __init__(
        self,
        members: Sequence[torch.Tensor],
        index: torch.Tensor | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.members = tuple(members)
        self._lie_on = self.members[0].device
        self.device = self._lie_on if device is None else torch.empty(0, device=device).device  # "cuda" is cuda:0
        self.index = None if index is None else index.to(self._lie_on)
        total = len(self.members[0]) if index is None else len(index)
        self.shape = total, sum(member.shape[1] for member in self.members)
        is_double = any(member.dtype == torch.float64 for member in self.members)
        self.dtype = torch.float64 if is_double else torch.float32

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: slice | torch.Tensor) -> torch.Tensor:
        """The chosen rows (a slice of step 1, or positions) as `dtype`; a view where there is nothing to convert."""
        if isinstance(chosen, torch.Tensor):
            chosen = chosen.to(self._lie_on)
        if self.index is not None:
            chosen = self.index[chosen]
        blocks = [member[chosen].to(self.device).to(self.dtype) for member in self.members]  # half precision travels
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)

    @property
    def gives_views(self) -> bool:
        """Whether a slice of rows is a view, not to be written to; else it is a copy of the reader's own."""
        stays = self.members[0].dtype == self.dtype and self._lie_on == self.device
        return len(self.members) == 1 and self.index is None and stays

    @property
    def num_bytes(self) -> int:
        """Bytes of one reading of all rows, as they are stored."""
        return len(self) * sum(member.shape[1] * member.element_size() for member in self.members)

    def take(self, index: torch.Tensor | None) -> Rows:
        """Some of the rows (positions), by reference; None means all."""
        if index is None:
            return self
        index = index.to(self._lie_on)
        return Rows(self.members, index if self.index is None else self.index[index], self.device)

    def on(self, device: torch.device, max_bytes: int | None) -> Features:
        """The same on `device`: copied there up to that size (None: always), else read there by the chunk."""
        rows = Rows(self.members, self.index, device)
        return rows if rows.device == self._lie_on else rows.joined_up_to(max_bytes)

    def joined(self) -> torch.Tensor:
        """All rows as one tensor (N, D) of the type they are stored in; the member itself where there is but one."""
        picked = [(member if self.index is None else member[self.index]).to(self.device) for member in self.members]
        return picked[0] if len(picked) == 1 else torch.cat(picked, dim=1)

    def joined_up_to(self, max_bytes: int | None) -> torch.Tensor | Rows:
        """`joined` where that is at most so large, else as they are; None means always joined."""
        return self.joined() if max_bytes is None or self.num_bytes <= max_bytes else self


Features = torch.Tensor | Rows


def as_rows(features: Features, index: torch.Tensor | None = None) -> Rows:
    """Features (N, D), or the rows of them at `index`, to be read by blocks."""
    rows = features if isinstance(features, Rows) else Rows([features])
    return rows.take(index)


def row_chunks(features: Features, rows: torch.Tensor | None, *, chunk_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
    """(offset, features (B, D)) over the given rows, or all."""
    chosen = as_rows(features, rows)
    for start in range(0, len(chosen), chunk_rows):
        yield start, chosen[start : start + chunk_rows]
