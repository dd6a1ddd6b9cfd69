import pytest

from richrep.evaluation.record import Record


def _backbone(name, sha256, address, preprocessing):
    return {
        "address": address or f"weights/{name}.th",
        "name": name,
        "family": "cifar-resnet",
        "architecture": name,
        "feature_dim": 64,
        "parameters": 10,
        "sparsity": 0.0,
        "sha256": sha256,
        "preprocessing": preprocessing,
    }


@pytest.fixture
def make_record():
    """A function that makes a record of the given scores; records made later have later ids."""
    count = 0

    def make(  # one keyword per fact that a table shows
        members="resnet20",
        test=0.8,
        *,
        val=0.81,
        interval=None,
        seed=0,
        dataset="cifar10",
        kind="probe",
        num_test=2000,
        sha256="ab" * 32,
        address=None,
        preprocessing="",
        gain=None,
        gain_interval=None,
        **changes,
    ):
        nonlocal count
        count += 1
        names = members.split()
        scores = {"accuracy": test}
        if interval:
            scores["accuracy_ci95"] = interval
        if gain is not None:
            scores |= {"gain_over_best_member": gain, "best_member": names[-1]}
        if gain_interval:
            scores["gain_over_best_member_ci95"] = gain_interval
        content = {
            "id": f"20260131T120000-{count:06d}-00000000",
            "kind": kind,
            "representation": names[0] if len(names) == 1 else f"cat({'+'.join(names)})",
            "backbones": [_backbone(name, sha256, address, preprocessing) for name in names],
            "feature_dim": 64 * len(names),
            "dataset": {
                "address": f"parquet:data/{dataset}",
                "name": dataset,
                "num_classes": 10,
                "num_train": 4000,
                "num_val": 1000,
                "num_test": num_test,
                "fingerprint": "cd",
            },
            "protocol": {"name": "logistic", "val_fraction": 0.2},
            "seed": seed,
            "hyperparameters": {"l2": 0.0031622, "normalization": "block-rms"},
            "metrics": {"val": {"accuracy": val}, "test": scores},
            "elapsed_s": {"extract": 12.0, "select": 1.1, "fit": 0.1, "total": 13.3},
        }
        return Record(**(content | changes))

    return make


@pytest.fixture
def five_rows(make_record):
    """Four networks and their concatenation, as `richrep probe` measures them."""
    names = ["resnet20", "resnet32", "resnet44", "resnet56"]
    alone = [make_record(name, 0.84 + 0.003 * at, interval=[0.826, 0.853]) for at, name in enumerate(names)]
    together = make_record(
        " ".join(names), 0.881, val=0.886, interval=[0.867, 0.894], gain=0.032, gain_interval=[0.022, 0.042]
    )
    return [*alone, together]
