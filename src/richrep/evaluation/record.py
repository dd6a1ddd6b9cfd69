"""Record: one measured number with everything that produced it; to and from JSON.

Fields this version does not know are kept as they are, so a record survives being read and written by an older
richrep of the same schema. Numbers are finite: NaN and infinity are not JSON, and a score that could not be computed
is left out (None) with its reason in a field beside it. Importing this module does not import torch.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from richrep.errors import RichrepError
from richrep.evaluation.environment import richrep_version

SCHEMA = 1
# Scores that are fractions in [0, 1]; differences of two of them lie in [-1, 1].
FRACTIONS = ("accuracy", "mean_per_class_accuracy", "top5_accuracy", "ece")
DIFFERENCES = ("gain_over_best_member", "gain_over_all", "gain_over_ensemble")


def _plain(value: Any) -> Any:
    """Tuples as lists and mappings as dicts, at every depth: what JSON would give back."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


Facts = Annotated[dict[str, JsonValue], BeforeValidator(_plain)]


class _Part(BaseModel):
    """A part of the record: fixed once made, tolerant of fields it does not know."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)


class BackboneFacts(_Part):
    """What is known of one backbone of the representation.

    Attributes:
        address: as the user typed it; name: short, for tables.
        parameters: of the whole network as the file holds it, its head included.
        sparsity: fraction of exact zeros among the conv and linear weights, in [0, 1].
        sha256: of the checkpoint file, or of the weights when there is no file (hex).
        preprocessing: one line for people.
        load_report: what was matched, set aside and ignored on loading, one line a fact.
    """

    address: str
    name: str = ""
    family: str
    architecture: str
    feature_dim: int = Field(ge=1)
    parameters: int = Field(ge=0)
    sparsity: float = Field(ge=0, le=1)
    sha256: str
    licence: str = "not stated"
    preprocessing: str = ""
    load_report: tuple[str, ...] = ()


class SkippedImageFacts(_Part):
    """An image that could not be decoded and was left out."""

    part: str
    name: str
    row: int
    reason: str


class DatasetFacts(_Part):
    """The data a number was measured on.

    Attributes:
        num_train, num_val, num_test: images trained on, selected on and scored on.
        fingerprint: of images, labels, class names and their order (hex).
        val: how val came about, e.g. "20 % per class of train, seed 0".
        notes: what else a reader should know, one sentence each.
    """

    address: str
    name: str
    num_classes: int = Field(ge=1)
    num_train: int = Field(ge=0)
    num_val: int = Field(ge=0)
    num_test: int = Field(ge=0)
    fingerprint: str
    val: str = ""
    notes: tuple[str, ...] = ()
    skipped_images: tuple[SkippedImageFacts, ...] = ()


def make_record_id() -> str:
    """A new id, e.g. '20260131T120000-123456-9f8e7d6c': UTC to the microsecond, then 32 random bits.

    Ids sort by time and may be a file name on every system.
    """
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S-%f}-{secrets.token_hex(4)}"


class Record(_Part):
    """One measured number with everything that produced it.

    Attributes:
        id: sorts by time, unique without coordination between machines.
        kind: what was run, e.g. "probe".
        representation: name for tables, e.g. "cat(resnet20+resnet56)".
        feature_dim: number of features of the whole representation.
        protocol: "name", and every option with its value.
        hyperparameters: what selection chose, e.g. {"l2": 0.001, "normalization": "block-rms"}.
        solver: how it was computed, where there is more than one way to the same result.
        metrics: per part ("val", "test") the scores by name, fractions in [0, 1]; an interval stands beside its score
            under NAME_ci95 as [low, high].
        elapsed_s: seconds per step: extract, select, fit, total.
        precision: class of the arithmetic that gave the features: "fp32", "bf16" or "fp16".
        fast_decode: whether JPEGs were decoded at a fraction of their size.
        resizing: by what images were resized: "pillow", "torch-uint8" or "torch-float32".
        environment: see `environment.py`; "engine" says what ran the networks.
        repeats: of protocols that draw training images, one entry a draw: its seed, what was chosen and scored. Of
            several, `metrics` are the means, their intervals Student's over the draws.
        search: of kind "search" alone: how the representation was found (`evaluation/search/records.py`).
    """

    schema_version: int = Field(default=SCHEMA, ge=1, le=SCHEMA, alias="schema")
    id: str = Field(default_factory=make_record_id, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)
    kind: str = Field(min_length=1)
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    richrep: str = Field(default_factory=richrep_version)
    representation: str = Field(min_length=1)
    backbones: tuple[BackboneFacts, ...]
    feature_dim: int = Field(ge=1)
    dataset: DatasetFacts
    protocol: Facts
    seed: int
    hyperparameters: Facts = Field(default_factory=dict)
    solver: Facts = Field(default_factory=dict)
    metrics: dict[str, Facts]
    elapsed_s: dict[str, float] = Field(default_factory=dict)
    precision: str = "fp32"
    fast_decode: bool = False
    resizing: str = "pillow"
    environment: Facts = Field(default_factory=dict)
    repeats: tuple[Facts, ...] = ()
    search: Facts = Field(default_factory=dict)

    @field_validator("protocol")
    @classmethod
    def _protocol_has_a_name(cls, protocol: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if not isinstance(protocol.get("name"), str):
            raise ValueError('needs a "name"')
        return protocol

    @model_validator(mode="after")
    def _numbers_make_sense(self) -> Self:
        for path, value in _numbers(self.model_dump(by_alias=True)):
            if not math.isfinite(value):
                raise ValueError(
                    f"{path} is {value}, a record holds finite numbers only; leave it out (None) and say why beside it"
                )
        for part, scores in self.metrics.items():
            for path, value in _numbers(scores):
                _check_score(part, path, value)
        return self

    @property
    def protocol_name(self) -> str:
        """Name of the protocol, e.g. "logistic"."""
        return str(self.protocol["name"])

    def score(self, part: str, name: str) -> float | None:
        """The score `name` on `part`, e.g. ("test", "accuracy"); None when it was not measured."""
        value = self.metrics.get(part, {}).get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def interval(self, part: str, name: str) -> tuple[float, float] | None:
        """The 95 % interval of `score(part, name)`; None when there is none."""
        match self.metrics.get(part, {}).get(f"{name}_ci95"):
            case [int() | float() as low, int() | float() as high]:
                return float(low), float(high)
        return None

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data, ready for `json.dumps`."""
        absent = {name for name in ("search", "repeats") if not getattr(self, name)}
        return self.model_dump(mode="json", by_alias=True, exclude=absent)

    def to_json(self) -> str:
        """The record as JSON text, indented, ending in a newline."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Record:
        """The record in `text`.

        Raises:
            RichrepError: not JSON, not a record, or a record of a newer schema; the message says which.
        """
        try:
            content = json.loads(text, parse_constant=_refuse_constant)
        except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, NaN
            raise RichrepError(f"not valid JSON: {error}.") from error
        if not isinstance(content, dict) or "schema" not in content or "representation" not in content:
            raise RichrepError("not a richrep record: a JSON object with schema, representation, … was expected.")
        _check_schema(content["schema"])
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise RichrepError(f"not a valid record: {_one_line(error)}.") from error


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested plain data with its path, e.g. ('metrics.test.nll', 0.4)."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from _numbers(item, f"{path}[{position}]")
    elif isinstance(value, float | int) and not isinstance(value, bool):
        yield path, value


def _check_score(part: str, path: str, value: float) -> None:
    name = re.sub(r"(_ci95)?(\[[01]\])?$", "", path)
    lowest = -1 if name in DIFFERENCES else 0
    if name in FRACTIONS + DIFFERENCES and not lowest <= value <= 1:
        raise ValueError(f"metrics.{part}.{path} is {value}, a fraction in [{lowest}, 1] was expected, not percent")


def _check_schema(schema: object) -> None:
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise RichrepError(f"not a richrep record: its schema is {schema!r}, a number from 1 to {SCHEMA} was expected.")
    if schema > SCHEMA:
        raise RichrepError(
            f"a record of schema {schema}, but richrep {richrep_version()} reads up to schema {SCHEMA}. "
            "Upgrade: pip install --upgrade richrep."
        )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _one_line(error: ValidationError) -> str:
    """What is wrong with each field, e.g. 'seed: Field required; dataset.name: Field required'."""
    problems = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(step) for step in problem["loc"])
        problems.append(f"{where}: {problem['msg']}" if where else problem["msg"])
    return "; ".join(problems)
