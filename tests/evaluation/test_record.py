import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import torch
from pydantic import ValidationError

from richrep.errors import RichrepError
from richrep.evaluation.environment import richrep_version
from richrep.evaluation.metrics import score
from richrep.evaluation.record import (
    SCHEMA,
    BackboneFacts,
    Record,
    make_record_id,
)

# The record of design.md, with the ellipses filled in.
DESIGN = """
{"schema": 1, "id": "20260131T120000-000000-00000000", "kind": "probe", "created": "2026-01-31T12:00:00Z",
 "richrep": "0.1.0",
 "representation": "cat(resnet20+resnet56)", "feature_dim": 128,
 "backbones": [{"address": "a.th", "family": "cifar-resnet", "architecture": "resnet20", "feature_dim": 64,
                "parameters": 269722, "sparsity": 0.0, "sha256": "ab"}],
 "dataset": {"address": "parquet:data/cifar10", "name": "cifar10", "num_classes": 10, "num_train": 4000,
             "num_val": 1000, "num_test": 2000, "fingerprint": "cd"},
 "protocol": {"name": "logistic", "val_fraction": 0.2, "normalizations": ["none", "block-rms"], "train_size": null},
 "seed": 0,
 "hyperparameters": {"l2": 0.001},
 "metrics": {"val": {"accuracy": 0.9},
             "test": {"accuracy": 0.88, "accuracy_ci95": [0.866, 0.893], "mean_per_class_accuracy": 0.88,
                      "top5_accuracy": 0.99, "nll": 0.4, "ece": 0.02, "log_odds": 1.99}},
 "elapsed_s": {"extract": 12.0, "select": 1.1, "fit": 0.1, "total": 13.3},
 "environment": {"torch": "2.10.0", "device": "cpu", "threads": 2}}
"""


def design(**changes):
    return json.loads(DESIGN) | changes


def parse(**changes):
    return Record.from_json(json.dumps(design(**changes)))


def with_metrics(**scores):
    return design(metrics={"test": scores})


# By hand


def test_the_record_of_the_design_is_read_and_every_field_comes_back():
    record = Record.from_json(DESIGN)
    written = record.to_dict()
    for name, value in design().items():
        if name not in ("backbones", "dataset"):
            assert written[name] == value, name
    assert written["backbones"][0].items() >= design()["backbones"][0].items()
    assert written["dataset"].items() >= design()["dataset"].items()


def test_a_record_has_no_fields_beyond_the_design_and_those_agreed_on():
    assert list(Record.from_json(DESIGN).to_dict()) == [
        "schema",
        "id",
        "kind",
        "created",
        "richrep",
        "representation",
        "backbones",
        "feature_dim",
        "dataset",
        "protocol",
        "seed",
        "hyperparameters",
        "solver",
        "metrics",
        "elapsed_s",
        "precision",
        "fast_decode",
        "resizing",
        "environment",
    ]


def test_scores_and_intervals_are_read_by_name():
    record = Record.from_json(DESIGN)
    assert record.score("val", "accuracy") == 0.9
    assert record.score("test", "nll") == 0.4
    assert record.interval("test", "accuracy") == (0.866, 0.893)
    assert record.protocol_name == "logistic"


def test_what_was_not_measured_is_none():
    record = parse(metrics={"test": {"accuracy": None, "accuracy_reason": "no test images", "best_member": "a"}})
    assert record.score("test", "accuracy") is None
    assert record.score("val", "accuracy") is None
    assert record.interval("test", "accuracy") is None
    assert record.score("test", "best_member") is None


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0])
def test_a_score_may_be_zero_or_one(value):
    assert Record(**with_metrics(accuracy=value)).score("test", "accuracy") == value


def test_id_created_version_and_schema_are_filled_in():
    content = design()
    for name in ("id", "created", "richrep", "schema"):
        del content[name]
    before = datetime.now(UTC).replace(microsecond=0)
    record = Record(**content)
    assert before <= record.created <= datetime.now(UTC)
    assert record.to_dict()["schema"] == SCHEMA
    assert record.to_dict()["created"].endswith("Z") and "." not in record.to_dict()["created"]
    assert record.id.startswith(str(record.created.year))
    assert record.richrep == richrep_version()


# Invariants


def test_a_record_survives_json_unchanged():
    record = Record.from_json(DESIGN)
    assert Record.from_json(record.to_json()) == record
    assert Record.from_json(record.to_json()).to_json() == record.to_json()


def test_a_record_made_in_python_with_tuples_survives_json_unchanged():
    content = design(protocol={"name": "logistic", "l2_grid": (1e-3, 1e-2), "nested": {"a": (1, (2, 3))}})
    record = Record(**content)
    assert Record.from_json(record.to_json()) == record


def test_what_score_returns_fits_into_a_record_without_loss():
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = score(logits, torch.arange(50) % 3, 3)
    record = Record(**design(metrics={"test": scores}))
    assert json.loads(record.to_json())["metrics"]["test"] == scores


def test_fields_of_a_later_richrep_of_the_same_schema_are_kept_at_every_level():
    content = design(later={"a": [1]})
    content["backbones"][0]["later"] = "b"
    content["dataset"]["later"] = 2
    record = Record.from_json(json.dumps(content))
    written = json.loads(record.to_json())
    assert (written["later"], written["backbones"][0]["later"], written["dataset"]["later"]) == ({"a": [1]}, "b", 2)
    assert Record.from_json(record.to_json()) == record


def test_options_that_are_none_stay_in_the_protocol():
    assert json.loads(Record.from_json(DESIGN).to_json())["protocol"]["train_size"] is None


def test_text_that_is_not_ascii_survives():
    record = parse(representation="größe", id="x")
    assert "größe" in record.to_json()
    assert Record.from_json(record.to_json().encode()).representation == "größe"


def test_ids_are_unique_and_sort_by_time():
    ids = [make_record_id() for _ in range(200)]
    assert len(set(ids)) == 200
    stamps = [record_id.rsplit("-", 1)[0] for record_id in ids]
    assert stamps == sorted(stamps)
    first = datetime.strptime(stamps[0], "%Y%m%dT%H%M%S-%f").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - first) < timedelta(minutes=1)


def test_a_record_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Record.from_json(DESIGN).seed = 1


def test_reading_records_does_not_import_torch():
    code = "import sys, richrep.evaluation.record, richrep.evaluation.record_store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Errors


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_named(value):
    with pytest.raises(ValueError, match=r"metrics\.test\.nll is (nan|inf|-inf), a record holds finite numbers only"):
        Record(**with_metrics(nll=value))
    with pytest.raises(ValueError, match=r"protocol\.l2_grid\[1\] is"):
        Record(**design(protocol={"name": "logistic", "l2_grid": [1.0, value]}))
    with pytest.raises(ValueError, match="later is"):
        Record(**design(later=value))


def test_nan_in_a_file_is_refused():
    with pytest.raises(RichrepError, match="not valid JSON: NaN is not a JSON number"):
        Record.from_json(DESIGN.replace("0.88,", "NaN,"))


@pytest.mark.parametrize("value", [88.0, -0.1, 1.0001])
def test_percent_is_refused_where_a_fraction_belongs(value):
    with pytest.raises(ValueError, match=r"metrics\.test\.accuracy is .*, a fraction in \[0, 1\] was expected"):
        Record(**with_metrics(accuracy=value))
    with pytest.raises(ValueError, match=r"metrics\.test\.accuracy_ci95\[1\] is"):
        Record(**with_metrics(accuracy_ci95=[0.5, value if value > 1 else 2.0]))


def test_a_gain_may_be_negative_but_is_a_fraction():
    record = Record(**with_metrics(gain_over_best_member=-0.02, gain_over_best_member_ci95=[-0.03, 0.01]))
    assert record.score("test", "gain_over_best_member") == -0.02
    assert record.interval("test", "gain_over_best_member") == (-0.03, 0.01)
    with pytest.raises(ValueError, match=r"gain_over_best_member is 2.5, a fraction in \[-1, 1\] was expected"):
        Record(**with_metrics(gain_over_best_member=2.5))


def test_a_newer_schema_asks_to_upgrade():
    with pytest.raises(RichrepError, match=r"a record of schema 2, but richrep .* reads up to schema 1. Upgrade: pip"):
        parse(schema=2)


@pytest.mark.parametrize("schema", [0, -1, "1", None, True, 1.5])
def test_a_schema_that_is_no_schema_is_named(schema):
    with pytest.raises(RichrepError, match="its schema is"):
        parse(schema=schema)


@pytest.mark.parametrize("text", ["", "{", "[1", b"\xff\xfe"])
def test_what_is_not_json_says_so(text):
    with pytest.raises(RichrepError, match="not valid JSON"):
        Record.from_json(text)


@pytest.mark.parametrize("text", ["[]", "1", "null", "{}", '{"records": []}', '{"schema": 1}'])
def test_other_json_is_no_record(text):
    with pytest.raises(RichrepError, match="not a richrep record"):
        Record.from_json(text)


def test_all_wrong_fields_are_named_at_once_in_one_line():
    content = design(seed="many")
    del content["dataset"]["name"]
    with pytest.raises(RichrepError, match=r"dataset.name: Field required; seed: ") as raised:
        Record.from_json(json.dumps(content))
    assert "\n" not in str(raised.value)


def test_a_protocol_needs_a_name():
    with pytest.raises(RichrepError, match=r'protocol: .*needs a "name"'):
        parse(protocol={"val_fraction": 0.2})


@pytest.mark.parametrize("record_id", ["", "../x", "a/b", ".hidden", "a b"])
def test_an_id_is_a_safe_file_name(record_id):
    with pytest.raises(RichrepError, match="id: "):
        parse(id=record_id)


def test_what_json_cannot_hold_is_refused_when_the_record_is_made():
    with pytest.raises(ValueError, match="hyperparameters"):
        Record(**design(hyperparameters={"l2": torch.tensor(1.0)}))


@pytest.mark.parametrize(("name", "value"), [("sparsity", 1.5), ("sparsity", -0.1), ("feature_dim", 0)])
def test_facts_of_a_backbone_are_checked(name, value):
    with pytest.raises(ValidationError, match=name):
        BackboneFacts(**(design()["backbones"][0] | {name: value}))


@pytest.mark.parametrize("sparsity", [0.0, 1.0])
def test_sparsity_may_be_zero_or_one(sparsity):
    assert BackboneFacts(**(design()["backbones"][0] | {"sparsity": sparsity})).sparsity == sparsity
