"""Which records are seeds of one row, and what tells rows of the same label apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from richrep.evaluation.record import BackboneFacts, Record
from richrep.evaluation.record_store import protocol_options

_ASIDE = ("seed", "source", "checkpoint_every")  # options that leave the result as it is, and what the seeds differ in


def identity(record: Record) -> tuple[object, ...]:
    """What records must share to be seeds of one row."""
    members = tuple((_backbone_identity(backbone), backbone.preprocessing) for backbone in record.backbones)
    return (
        *_label(record),
        members,
        record.dataset.address,
        record.dataset.num_classes,
        record.precision,
        record.fast_decode,
        record.resizing,
        _stored_as(record),
        *_protocol_options(record).items(),
    )


def variants(firsts: Sequence[Record]) -> list[str]:
    """For the first record of every row, the facts that tell the row from those with the same label; mostly ""."""
    alike: dict[tuple[object, ...], list[dict[str, str]]] = defaultdict(list)
    for record in firsts:
        alike[_label(record)].append(_telling_facts(record))
    told = []
    for record in firsts:
        others = alike[_label(record)]
        facts = _telling_facts(record).items()
        differing = [_short(fact) for key, fact in facts if len({other.get(key) for other in others}) > 1]
        told.append(", ".join(dict.fromkeys(differing)))
    return told


def _label(record: Record) -> tuple[object, ...]:
    """What a printed row shows of its origin."""
    data = record.dataset
    sizes = (data.num_train, data.num_val, data.num_test)
    return record.representation, data.name, *sizes, record.kind, record.protocol_name


def _telling_facts(record: Record) -> dict[str, str]:
    """What `identity` holds beyond `_label`, as text for people."""
    facts = {
        f"backbone {position}": f"{backbone.name}@{_backbone_identity(backbone)}"
        for position, backbone in enumerate(record.backbones)
    }
    facts |= {f"preprocessing {position}": b.preprocessing for position, b in enumerate(record.backbones)}
    facts |= {f"option {key}": f"{key}={value}" for key, value in _protocol_options(record).items()}
    facts |= {"precision": record.precision, "decoding": "fast decode" if record.fast_decode else "plain decode"}
    facts |= {"resizing": f"resized by {record.resizing}"}
    facts |= {"stored": f"{_stored_as(record)} features"}
    return facts | {"address": record.dataset.address, "classes": f"{record.dataset.num_classes} classes"}


def _backbone_identity(backbone: BackboneFacts) -> str:
    return backbone.address if backbone.address.startswith("random/") else backbone.sha256


def _stored_as(record: Record) -> str:
    """Type of the features that heads read, e.g. "float16"; older records do not say, and then it was float32."""
    return str(record.environment.get("features", "float32"))


def _protocol_options(record: Record) -> dict[str, str]:
    """Every option of the protocol by its name, options inside options as "optimizer.momentum"."""
    return {key: str(value) for key, value in sorted(protocol_options(record)) if key.rpartition(".")[2] not in _ASIDE}


def _short(fact: str) -> str:
    """A checksum by its first 8 digits; anything else by its first 40 characters."""
    name, at, checksum = fact.rpartition("@")
    if at and len(checksum) == 64:
        return f"{name}@{checksum[:8]}"
    return fact if len(fact) <= 40 else f"{fact[:39]}…"
