import json
import logging
import os
import subprocess
import sys

import pytest

from richrep.errors import RichrepError
from richrep.evaluation.record import Record
from richrep.evaluation.record_store import facts_of, filter_records, load_records, save_record


def make_record(representation="resnet20", *, dataset="cifar10", seed=0, **changes):
    content = {
        "kind": "probe",
        "representation": representation,
        "backbones": [
            {
                "address": "weights/a.th",
                "name": representation,
                "family": "cifar-resnet",
                "architecture": representation,
                "feature_dim": 64,
                "parameters": 10,
                "sparsity": 0.0,
                "sha256": "ab" * 32,
            }
        ],
        "feature_dim": 64,
        "dataset": {
            "address": f"parquet:data/{dataset}",
            "name": dataset,
            "num_classes": 10,
            "num_train": 80,
            "num_val": 20,
            "num_test": 50,
            "fingerprint": "cd",
        },
        "protocol": {"name": "logistic", "val_fraction": 0.2, "normalizations": ["none", "standard"]},
        "seed": seed,
        "hyperparameters": {"l2": 0.001, "normalization": "block-rms"},
        "metrics": {"test": {"accuracy": 0.8}},
    }
    return Record(**(content | changes))


@pytest.fixture
def records():
    return [
        make_record("resnet20", id="1"),
        make_record("resnet20", id="2", seed=1, hyperparameters={"l2": 1e-5, "normalization": "none"}),
        make_record("resnet56", id="3", seed=10, dataset="cifar100"),
        make_record("MobileNetV2", id="4", dataset="flowers", kind="own-head", protocol={"name": "knn", "k": 5}),
    ]


def ids(records):
    return [record.id for record in records]


# Writing and reading


def test_a_saved_record_comes_back_equal(tmp_path):
    record = make_record()
    path = save_record(record, tmp_path / "runs" / "deep")
    assert path == tmp_path / "runs" / "deep" / f"{record.id}.json"
    assert load_records(tmp_path / "runs") == [record]


def test_records_come_oldest_first_from_the_whole_tree(tmp_path):
    for record_id, folder in (("3", "a"), ("1", "b/c"), ("2", ".")):
        save_record(make_record(id=record_id), tmp_path / folder)
    assert ids(load_records(tmp_path)) == ["1", "2", "3"]


def test_saving_twice_keeps_one_file(tmp_path):
    record = make_record()
    assert save_record(record, tmp_path) == save_record(record, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_copied_folder_does_not_double_its_records(tmp_path):
    record = make_record()
    save_record(record, tmp_path / "runs")
    save_record(record, tmp_path / "copy")
    assert load_records(tmp_path) == [record]


def test_an_empty_folder_has_no_records_whatever_the_pattern(tmp_path):
    assert load_records(tmp_path) == []
    assert load_records(tmp_path, ["sed=0"]) == []


def test_the_file_is_readable_as_widely_as_the_system_allows(tmp_path):
    if os.name != "posix":
        pytest.skip("file modes are those of POSIX")
    old = os.umask(0o022)
    try:
        assert save_record(make_record(), tmp_path).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(old)


# Whole or not at all


def test_a_failure_before_the_rename_leaves_nothing(tmp_path, monkeypatch):
    def fail(source, target):
        assert Record.from_json(source.read_bytes())  # whole before it is renamed
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RichrepError, match=r"cannot be written to .*No space left on device.*--out"):
        save_record(make_record(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_before_the_rename_leaves_the_earlier_record(tmp_path, monkeypatch):
    record = make_record(id="same")
    save_record(record, tmp_path)
    monkeypatch.setattr(os, "replace", lambda source, target: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_record(make_record("resnet56", id="same"), tmp_path)
    assert load_records(tmp_path) == [record]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_process_killed_before_the_rename_leaves_no_record_and_no_half_file(tmp_path, caplog):
    code = (
        "import os, sys, pathlib\n"
        "from richrep.evaluation.record import Record\n"
        "from richrep.evaluation import record_store\n"
        "os.replace = lambda source, target: os._exit(9)\n"
        "record_store.save_record(Record.from_json(sys.stdin.read()), sys.argv[1])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], input=make_record().to_json(), text=True, check=False
    )
    assert run.returncode == 9
    assert list(tmp_path.glob("*.json")) == []
    assert load_records(tmp_path) == []
    assert caplog.records == []


def test_two_processes_write_fifty_records_each_into_one_folder(tmp_path):
    code = (
        "import sys\n"
        "from richrep.evaluation.record import Record, make_record_id\n"
        "from richrep.evaluation.record_store import save_record\n"
        "record = Record.from_json(sys.stdin.read())\n"
        "for seed in range(50):\n"
        "    save_record(record.model_copy(update={'id': make_record_id(), 'seed': seed}), sys.argv[1])\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "runs")], stdin=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for writer, name in zip(writers, ("resnet20", "resnet56"), strict=True):
        writer.stdin.write(make_record(name).to_json())
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0, 0]
    found = load_records(tmp_path / "runs")
    assert sorted((record.representation, record.seed) for record in found) == sorted(
        (name, seed) for name in ("resnet20", "resnet56") for seed in range(50)
    )
    assert len(list((tmp_path / "runs").iterdir())) == 100  # no temporary file left


# Damaged and foreign files


def test_bad_files_are_reported_by_name_and_the_others_are_kept(tmp_path, caplog):
    record = make_record()
    path = save_record(record, tmp_path)
    (tmp_path / "half.json").write_text(path.read_text()[:100])
    (tmp_path / "foreign.json").write_text('{"epochs": 3}')
    (tmp_path / "binary.json").write_bytes(b"\xff\x00")
    (tmp_path / "newer.json").write_text(json.dumps(record.to_dict() | {"schema": 2}))
    with caplog.at_level(logging.WARNING):
        assert load_records(tmp_path) == [record]
    for name, reason in [
        ("half.json", "not valid JSON"),
        ("foreign.json", "not a richrep record"),
        ("binary.json", "not valid JSON"),
        ("newer.json", "Upgrade"),
    ]:
        assert any(name in message and reason in message for message in caplog.messages), name
    assert len(caplog.messages) == 4


def test_hidden_files_and_folders_named_like_records_are_passed_over(tmp_path, caplog):
    (tmp_path / "._copy.json").write_text("resource fork")
    (tmp_path / "folder.json").mkdir()
    assert load_records(tmp_path) == []
    assert caplog.messages == []


def test_a_missing_folder_and_a_file_are_named(tmp_path):
    with pytest.raises(RichrepError, match=r"records folder .*absent does not exist. Run `richrep probe` first"):
        load_records(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(RichrepError, match=r"file is not a folder"):
        load_records(tmp_path / "file")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RichrepError, match=r"Record .* \(\d+ bytes\) cannot be written to .*file"):
        save_record(make_record(), tmp_path / "file" / "runs")


# Patterns


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], ["1", "2", "3", "4"]),
        (["resnet"], ["1", "2", "3", "4"]),  # the family of all four is cifar-resnet
        (["resnet20"], ["1", "2"]),
        (["RESNET56"], ["3"]),
        (["mobilenet"], ["4"]),
        (["cifar10"], ["1", "2", "3"]),  # a part of cifar100
        (["cifar10", "resnet56"], ["3"]),
        (["cifar100", "resnet20"], []),
        (["own-head"], ["4"]),
        (["knn"], ["4"]),
        (["parquet:data/flowers"], ["4"]),
        (["dataset=cifar10"], ["1", "2"]),
        (["dataset=parquet:data/cifar100"], ["3"]),
        (["seed=1"], ["2"]),  # not 10
        (["seed=0", "dataset=CIFAR10"], ["1"]),
        (["kind=probe"], ["1", "2", "3"]),
        (["protocol=knn"], ["4"]),
        (["representation=resnet56"], ["3"]),
        (["architecture=mobilenetv2"], ["4"]),
        (["family=cifar-resnet"], ["1", "2", "3", "4"]),
        (["id=2"], ["2"]),
        (["backbone=weights/a.th"], ["1", "2", "3", "4"]),
        (["l2=1e-3"], ["1", "3", "4"]),
        (["l2=0.00001"], ["2"]),
        (["normalization=none"], ["2"]),
        (["val_fraction=0.20"], ["1", "2", "3"]),
        (["k=5"], ["4"]),
        (["normalizations=none,standard"], ["1", "2", "3"]),
        (["nothing"], []),
    ],
)
def test_patterns_choose_records(records, patterns, expected):
    assert ids(filter_records(records, patterns)) == expected


def test_loading_takes_patterns(tmp_path, records):
    for record in records:
        save_record(record, tmp_path)
    assert ids(load_records(tmp_path, ["cifar", "seed=10"])) == ["3"]


def test_the_id_is_searched_by_part():
    record = make_record(id="20260131T120000-000000-abcdef01")
    assert filter_records([record], ["20260131"]) == [record]
    assert filter_records([record], ["ABCDEF"]) == [record]


def test_an_unknown_key_is_named_with_the_nearest(records):
    with pytest.raises(RichrepError, match=r"Unknown key 'sed'. Did you mean 'seed'\? Known: .*dataset.*seed"):
        filter_records(records, ["sed=0"])


def test_an_equals_sign_in_a_name_is_no_key():
    record = make_record("run_lr=0.1")
    assert filter_records([record], ["lr=0.1"]) == [record]


def test_every_key_is_listed():
    assert facts_of(make_record()).keys() == {
        "architecture",
        "backbone",
        "dataset",
        "family",
        "id",
        "kind",
        "l2",
        "normalization",
        "normalizations",
        "protocol",
        "representation",
        "seed",
        "val_fraction",
    }
