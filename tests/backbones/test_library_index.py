"""The index of torchvision's and timm's architectures against the installed libraries."""

from __future__ import annotations

from importlib.resources import files

import pytest
import timm
import torch

from richrep.backbones.families import timm_models, torchvision_models
from richrep.backbones.families.library_index import INDEX_FILE, Entry, alike, count_values, load_index, nearest

ENTRIES = {
    "a": Entry(8, ("fc",), True, {"conv1": 10, "layer1": 100}),
    "b": Entry(8, ("head.fc",), True, {"conv1": 10, "layer1": 100, "head": 4}),
    "c": Entry(8, ("fc",), True, {"conv1": 10, "layer1": 300}),
}


def tensors(**sizes: int) -> dict[str, torch.Tensor]:
    return {name.replace("__", "."): torch.zeros(size) for name, size in sizes.items()}


def test_values_are_counted_by_top_level_module_without_batch_counters() -> None:
    counted = count_values(tensors(conv1__weight=3, conv1__bn__num_batches_tracked=1, pos=2).items())
    assert counted == {"conv1": 3, "pos": 2}


def test_alike_is_what_has_the_same_counts_without_its_head() -> None:
    assert alike(ENTRIES, tensors(conv1__weight=10, layer1__weight=100)) == ["a"]
    assert alike(ENTRIES, tensors(conv1__w=10, layer1__w=100, head__norm__w=4, head__fc__weight=50)) == ["a", "b"]
    assert alike(ENTRIES, tensors(conv1__weight=10, layer1__weight=101)) == []


def test_the_nearest_come_first_and_strangers_never() -> None:
    # shares 110 of 111 values with a, 110 of 210 with c
    assert nearest(ENTRIES, tensors(conv1__weight=10, layer1__weight=101)) == ["a", "b", "c"]
    assert nearest(ENTRIES, tensors(body__weight=400)) == []


def test_an_entry_survives_json() -> None:
    assert Entry.from_json(ENTRIES["b"].to_json()) == ENTRIES["b"]


def test_the_index_is_small_and_was_made_with_the_installed_libraries() -> None:
    assert len(files("richrep.backbones.families").joinpath(INDEX_FILE).read_bytes()) < 400_000
    missing = set(torchvision_models.list_names()) - load_index("torchvision").entries.keys()
    assert not missing
    if load_index("timm").version == timm.__version__:
        left_out = set(timm_models.list_names()) - load_index("timm").entries.keys()
        assert all(name.endswith("_enc") for name in left_out)  # encoders without get_classifier


@pytest.mark.parametrize(
    "name",
    [
        "caformer_s18",
        "convnext_atto",
        "crossvit_9_240",
        "deit_tiny_distilled_patch16_224",
        "efficientnet_b0",
        "levit_128s",
        "mixer_s32_224",
        "vit_small_patch16_rope_mixed_224",
        "regnety_002",
        "resnet18",
        "swin_tiny_patch4_window7_224",
        "vit_tiny_patch16_224",
    ],
)
def test_a_fresh_timm_entry_equals_the_index(name: str) -> None:
    assert timm_models.measure_entry(name) == load_index("timm").entries[name]


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "squeezenet1_0", "vit_b_16", "regnet_y_400mf"])
def test_a_fresh_torchvision_entry_equals_the_index(name: str) -> None:
    assert torchvision_models.measure_entry(name) == load_index("torchvision").entries[name]


def test_an_architecture_that_the_index_lacks_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    index = load_index("timm")
    monkeypatch.setattr(timm, "__version__", "0.0.1")
    assert timm_models.find_entry("resnet10t") == index.entries["resnet10t"]
