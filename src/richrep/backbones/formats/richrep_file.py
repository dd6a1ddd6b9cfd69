"""Our own files: what `richrep convert` writes, safetensors with all that is needed to load them back identically."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from richrep.backbones.formats.format import Network, split_off, under
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import CheckpointError

KEY = "richrep"  # of the metadata
MASK = "richrep.mask."  # put before the name of the tensor that a mask belongs to


class Facts(BaseModel):
    """What the metadata `richrep` holds, as JSON.

    Attributes:
        family: what the backbone called its family, e.g. "swav".
        layout: the family that builds the network, e.g. "torchvision".
        architecture: of that family.
        size_px, resize_px, interpolation, mean, std: the preprocessing, as in `Geometry` and `Preprocessing`.
        hints: what changes the features and no tensor says.
        licence: of the weights.
        source_address, source_sha256: what was converted.
        notes: the load report of the source.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    family: str
    layout: str
    architecture: str
    size_px: tuple[int, int]
    resize_px: int | None
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    hints: dict[str, str]
    licence: str
    source_address: str
    source_sha256: str
    notes: tuple[str, ...]


class RichrepFormat:
    """Safetensors whose metadata holds `richrep`."""

    name = "richrep"
    description = "files of `richrep convert`: weights, head, masks, preprocessing and their source"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The one network, with its masks."""
        if KEY not in metadata:
            return []
        try:
            facts = Facts.model_validate(json.loads(metadata[KEY]))
            preprocessing = Preprocessing(
                Geometry(facts.size_px, facts.resize_px, facts.interpolation), facts.mean, facts.std
            )
        except (ValidationError, ValueError) as error:
            reason = str(error).strip().splitlines()
            raise CheckpointError(
                f"its metadata {KEY!r} is not what `richrep convert` writes: {' '.join(reason[:3])}. Convert it again."
            ) from None
        tensors, _ = split_off(content, MASK.replace(".", r"\."))
        network = Network(
            tensors,
            notes=(f"converted from {facts.source_address} (sha256 {facts.source_sha256}): {'; '.join(facts.notes)}",),
            masks=under(content, MASK),
            preprocessing=preprocessing,
            preprocessing_stated=True,
            hints=facts.hints,
            family=facts.family,
            architecture=f"{facts.layout}/{facts.architecture}",
        )
        return [network]
