import pytest

from richrep.reports.tables import make_results_table


def row_of(table):
    (row,) = table.rows
    return row


@pytest.mark.parametrize(
    "changes",
    [
        {"members": "resnet56"},
        {"members": "resnet20 resnet20"},
        {"sha256": "cd" * 32},
        {"dataset": "cifar100"},
        {"num_test": 1000},
        {"kind": "own-head"},
        {"protocol": {"name": "knn"}},
        {"protocol": {"name": "logistic", "val_fraction": 0.1}},
        {"environment": {"features": "float16"}},
        {"preprocessing": "resize 256 (bilinear), crop 224x224"},
    ],
)
def test_what_differs_in_more_than_the_seed_is_never_averaged(make_record, changes):
    assert len(make_results_table([make_record(), make_record(seed=1, **changes)]).rows) == 2


def test_random_backbones_have_other_weights_for_every_seed_and_are_still_averaged(make_record):
    records = [
        make_record("resnet18", address="random/resnet18", sha256=sha256, seed=seed)
        for seed, sha256 in enumerate(["ab" * 32, "cd" * 32])
    ]
    assert row_of(make_results_table(records)).num_seeds == 2


def test_the_seed_among_the_options_of_the_protocol_does_not_split_a_row(make_record):
    records = [make_record(seed=seed, protocol={"name": "logistic", "seed": seed}) for seed in (0, 1)]
    assert row_of(make_results_table(records)).num_seeds == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sha256": "cd" * 32}, {"resnet20@abababab", "resnet20@cdcdcdcd"}),
        ({"protocol": {"name": "logistic", "val_fraction": 0.1}}, {"val_fraction=0.2", "val_fraction=0.1"}),
        ({"environment": {"features": "float16"}}, {"float32 features", "float16 features"}),
        ({"preprocessing": "crop 8x8"}, {"", "crop 8x8"}),
        ({"num_test": 1000}, {""}),  # the sizes are printed
        ({"dataset": "cifar100"}, {""}),
    ],
)
def test_rows_of_the_same_label_say_what_tells_them_apart(make_record, changes, expected):
    rows = make_results_table([make_record(), make_record(**changes)]).rows
    assert {row.variant for row in rows} == expected


def test_two_sizes_of_the_images_are_told_apart_and_said_once(make_record):
    records = [make_record("a b", preprocessing=f"crop {size}x{size}", seed=seed) for seed, size in ((0, 8), (1, 16))]
    rows = make_results_table(records).rows
    assert {row.variant for row in rows} == {"crop 8x8", "crop 16x16"} and all(row.num_seeds == 1 for row in rows)


@pytest.mark.parametrize("where", [{"options": {"checkpoint_every": 5}}, {"source": "reworded"}])
def test_what_does_not_touch_the_result_does_not_split_a_row(make_record, where):
    protocol = {"name": "default", "options": {"epochs": 2, "checkpoint_every": None}, "source": "ours"}
    records = [
        make_record(protocol=protocol),
        make_record(seed=1, protocol=protocol | where | {"options": protocol["options"] | where.get("options", {})}),
    ]
    assert row_of(make_results_table(records)).num_seeds == 2


def test_records_that_do_not_say_how_features_are_stored_hold_float32(make_record):
    records = [make_record(), make_record(seed=1, environment={"features": "float32"})]
    assert row_of(make_results_table(records)).num_seeds == 2


def test_an_option_that_only_one_protocol_has_tells_it_apart(make_record):
    protocol = {"name": "logistic", "val_fraction": 0.2, "grid": list(range(50))}
    variants = [row.variant for row in make_results_table([make_record(), make_record(protocol=protocol)]).rows]
    assert "" in variants
    assert any(variant.startswith("grid=[0, 1") and variant.endswith("…") for variant in variants)


def test_the_same_name_at_two_addresses_is_told_apart(make_record):
    here = make_record()
    there = here.model_copy(update={"dataset": here.dataset.model_copy(update={"address": "folder:x"}), "id": "z"})
    assert {row.variant for row in make_results_table([here, there]).rows} == {"parquet:data/cifar10", "folder:x"}


def test_options_of_one_name_in_two_parts_of_a_protocol_are_not_confused(make_record):
    """As of two-stage fine-tuning, whose first stage may have a rate of its own for heads and whose second has none."""

    def record(**stage1: float):
        stages = {"options": {"head_lr": None}, "stage1": {"options": {"head_lr": 0.01, "epochs": 3} | stage1}}
        return make_record(protocol={"name": "rrl-two-stage"} | stages)

    assert len(make_results_table([record(), record(head_lr=0.1)]).rows) == 2
    assert len(make_results_table([record(), record()]).rows) == 1
