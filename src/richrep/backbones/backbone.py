"""Backbone: images -> features, never without its preprocessing, its fingerprint and its licence."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import nn

from richrep.data.preprocessing import Preprocessing

MaskSource: TypeAlias = Literal["file", "zeros", ""]


@dataclass(frozen=True)
class Origin:
    """How a backbone was laid out from its checkpoint; enough to write a checkpoint that is laid out alike.

    Attributes:
        family: the family that built the network, e.g. "torchvision" (a backbone's `family` may be a format).
        head_names: name in the checkpoint -> name in the head's state dict.
        hints: what the format said of the network beyond its tensors.
    """

    family: str
    head_names: Mapping[str, str] = field(default_factory=dict)
    hints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network that maps normalised images (B, 3, H, W) to features (B, D), and the facts about it.

    Attributes:
        trunk: images (B, 3, H, W) -> whatever `pool` and `head` take.
        pool: output of the trunk -> features (B, D); the identity when the trunk already pools.
        head: output of the trunk -> logits (B, K), the classifier found in the checkpoint; None when there is none.
        preprocessing: what an image goes through before the trunk.
        address: where the backbone came from, as the user typed it.
        name: short name for tables, e.g. "resnet20".
        family: which family read it, e.g. "cifar-resnet".
        architecture: name of the architecture within the family, e.g. "resnet20".
        feature_dim: D.
        sha256: of the checkpoint file, or of the weights when there is no file (hex).
        licence: as stated by the source, or "not stated".
        num_classes: K of `head`, None without one.
        class_names: of the logits, in their order; empty where nothing states them.
        variant: what changes features and neither the architecture's name nor a tensor says, e.g. "SAME padding".
        load_report: what was matched, set aside and ignored on loading, one line a fact.
        masks: "trunk." or "head." and the parameter's name -> bool tensor of its shape, False where it was pruned; only
            masks that prune something. The weights have been multiplied by them.
        mask_source: "file" when it held masks, "zeros" when they were inferred from zero weights, "" without any.
        origin: how it was laid out; None when no family laid it out (made in memory, concatenated).
    """

    trunk: nn.Module
    preprocessing: Preprocessing
    address: str
    name: str
    family: str
    architecture: str
    feature_dim: int
    pool: nn.Module = field(default_factory=nn.Identity)
    head: nn.Module | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    sha256: str = ""
    licence: str = "not stated"
    variant: str = ""
    load_report: tuple[str, ...] = ()
    masks: Mapping[str, torch.Tensor] = field(default_factory=dict)
    mask_source: MaskSource = ""
    origin: Origin | None = None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Features (B, D) of normalised images (B, 3, H, W)."""
        features: torch.Tensor = self.pool(self.trunk(images))
        return features

    def features_and_logits(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, D) and the own head's logits (B, K) from one pass. Raises ValueError without a head."""
        if self.head is None:
            raise ValueError(f"{self.address} has no head of its own.")
        hidden = self.trunk(images)
        return self.pool(hidden), self.head(hidden)

    def _network_parameters(self) -> list[torch.Tensor]:
        heads = [] if self.head is None else list(self.head.parameters())
        return [*self.trunk.parameters(), *heads]

    @property
    def parameters(self) -> int:
        """Number of parameters of the network as the checkpoint holds it: trunk, and head where there is one."""
        return sum(p.numel() for p in self._network_parameters())

    @property
    def trunk_parameters(self) -> int:
        """Number of parameters of the trunk: what the features cost."""
        return sum(p.numel() for p in self.trunk.parameters())

    @property
    def sparsity(self) -> float:
        """Fraction of exact zeros among the network's weights of two or more dimensions (conv, linear), in [0, 1]."""
        weights = [p for p in self._network_parameters() if p.ndim >= 2]
        total = sum(w.numel() for w in weights)
        return sum(int((w == 0).sum()) for w in weights) / total if total else 0.0

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over family, architecture, variant and the tensors of trunk, pool and head, with names.

        Computed anew each time, so that weights trained in place never pass for the old ones.
        """
        facts = f"richrep backbone 1\0{self.family}\0{self.architecture}\0{self.variant}\0"
        digest = hashlib.sha256(facts.encode())
        for part, module in (("trunk", self.trunk), ("pool", self.pool), ("head", self.head)):
            for name, tensor in (module.state_dict() if module is not None else {}).items():
                digest.update(f"{part}.{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> Backbone:
        """Moves the modules to `device` in place, in evaluation mode; returns itself."""
        for module in (self.trunk, self.pool, self.head):
            if module is not None:
                module.to(device).eval()
        return self
