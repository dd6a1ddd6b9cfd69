"""Published weights from the hub caches, and what is said when they cannot be had. Nothing here uses the network."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
import torchvision.models
from safetensors.torch import save_file

from richrep.backbones import download
from richrep.backbones.addresses import load_backbone
from richrep.errors import CheckpointError


@pytest.fixture
def torch_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's hub cache, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def hugging_face_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hugging Face's cache, empty."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    real = huggingface_hub.try_to_load_from_cache
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda *args, **kw: real(*args, cache_dir=tmp_path, **kw)
    )
    return tmp_path


def put_into_hugging_face_cache(cache: Path, repo: str, tensors: dict[str, torch.Tensor]) -> None:
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    save_file(tensors, folder / "snapshots" / "abc" / "model.safetensors")


@pytest.mark.parametrize("variable", ["RICHREP_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("address", ["timm/resnet10t", "torchvision/resnet18"])
def test_offline_and_not_cached_says_what_to_do(
    torch_cache: Path, hugging_face_cache: Path, monkeypatch: pytest.MonkeyPatch, variable: str, address: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(CheckpointError) as caught:
        load_backbone(address)
    text = str(caught.value)
    assert "its weights are not in the cache and RICHREP_OFFLINE or HF_HUB_OFFLINE forbids the network" in text
    if address.startswith("timm"):
        assert text.startswith("timm/resnet10t.c3_in1k:") and "hf download timm/resnet10t.c3_in1k" in text
    else:
        assert f"put https://download.pytorch.org/models/resnet18-f37072fd.pth at {torch_cache}/resnet18-f37" in text


def test_timm_weights_in_the_cache_load_offline(hugging_face_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RICHREP_OFFLINE", "1")
    model = timm.create_model("resnet10t").eval()
    put_into_hugging_face_cache(hugging_face_cache, "timm/resnet10t.c3_in1k", model.state_dict())
    backbone = load_backbone("timm/resnet10t")
    assert (backbone.name, backbone.architecture, backbone.num_classes) == ("resnet10t.c3_in1k", "resnet10t", 1000)
    assert backbone.licence == "apache-2.0" and len(backbone.sha256) == 64
    assert backbone.load_report[0].endswith("head: 1000 classes (linear); ignored: none")
    assert backbone.load_report[-1] == "preprocessing: as published with resnet10t.c3_in1k"
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(backbone.features_and_logits(images)[1], model(images), atol=1e-5)
    tagged = load_backbone("timm/resnet10t.c3_in1k")
    assert tagged.fingerprint == backbone.fingerprint


def test_weights_that_timm_converts_are_converted_by_timm(
    hugging_face_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RICHREP_OFFLINE", "1")
    tensors = timm.create_model("test_vit").state_dict()
    tensors["pos_embed"] = torch.randn(1, 1 + 14 * 14, 64, generator=torch.Generator().manual_seed(0))  # 10 x 10 wanted
    put_into_hugging_face_cache(hugging_face_cache, "timm/test_vit.r160_in1k", dict(tensors))
    backbone = load_backbone("timm/test_vit")
    model = timm.create_model("test_vit", pretrained=True, pretrained_cfg_overlay={"state_dict": dict(tensors)}).eval()
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(backbone.features_and_logits(images)[1], model(images), atol=1e-5)


def test_weights_that_timm_cannot_load_are_an_error(hugging_face_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RICHREP_OFFLINE", "1")
    model = timm.create_model("regnety_002").eval()
    tensors = {f"blocks.{name}" if name.startswith("stem") else name: t for name, t in model.state_dict().items()}
    put_into_hugging_face_cache(hugging_face_cache, "timm/regnety_002.pycls_in1k", tensors)
    with pytest.raises(CheckpointError, match=r"timm cannot load its own weights of regnety_002\.pycls_in1k"):
        load_backbone("timm/regnety_002")


def test_torchvision_weights_in_the_cache_load_offline(torch_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RICHREP_OFFLINE", "1")
    model = torchvision.models.squeezenet1_1().eval()
    torch_cache.mkdir(parents=True)
    torch.save(model.state_dict(), torch_cache / "squeezenet1_1-b8a52dc0.pth")
    backbone = load_backbone("torchvision/squeezenet1_1")
    assert (backbone.name, backbone.family) == ("squeezenet1_1.IMAGENET1K_V1", "torchvision")
    assert backbone.preprocessing.geometry.resize_px == 256
    assert backbone.load_report[-1] == "preprocessing: as published with squeezenet1_1.IMAGENET1K_V1"


def test_an_architecture_without_published_weights_says_so(hugging_face_cache: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"timm publishes no weights of regnetz_005\.untrained\. Use random/regnetz_005"
    ):
        load_backbone("timm/regnetz_005")


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RICHREP_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes | Exception) -> None:
    """In place of the network."""

    def open_url(url: str, timeout: float) -> Any:
        assert timeout > 0
        if isinstance(content, Exception):
            raise content
        return io.BytesIO(content)

    monkeypatch.setattr(download.urllib.request, "urlopen", open_url)


def test_a_download_is_checked_and_kept(torch_cache: Path, monkeypatch: pytest.MonkeyPatch, online: None) -> None:
    content = b"weights"
    url = f"https://example.org/net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    serve(monkeypatch, content)
    path = download.fetch_url(url, what="x")
    assert path.parent == torch_cache and path.read_bytes() == content
    serve(monkeypatch, OSError("the network must not be used again"))
    assert download.fetch_url(url, what="x") == path


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"other", r"cannot be fetched \(its SHA-256 is [0-9a-f]{64}, expected one that starts with 00000000\)"),
        (OSError("Name or service not known"), r"cannot be fetched \(Name or service not known\)\. Check the network"),
        (TimeoutError(), r"cannot be fetched \(TimeoutError\)"),
    ],
)
def test_a_failed_download_leaves_nothing_behind(
    torch_cache: Path, monkeypatch: pytest.MonkeyPatch, online: None, content: bytes | Exception, text: str
) -> None:
    serve(monkeypatch, content)
    with pytest.raises(CheckpointError, match=f"torchvision/x: its weights are not in the cache and https://.*{text}"):
        download.fetch_url("https://example.org/net-00000000.pth", what="torchvision/x")
    assert list(torch_cache.iterdir()) == []


def test_only_https_is_fetched(torch_cache: Path, online: None) -> None:
    with pytest.raises(CheckpointError, match=r"http://example\.org/n\.pth is not an https address"):
        download.fetch_url("http://example.org/n.pth", what="x")


def test_a_dead_hub_is_an_error_with_advice(
    hugging_face_cache: Path, monkeypatch: pytest.MonkeyPatch, online: None
) -> None:
    def fail(*args: object, **options: object) -> str:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(
        CheckpointError, match=r"https://huggingface\.co/timm/resnet10t\.c3_in1k cannot be fetched \(Name"
    ):
        load_backbone("timm/resnet10t")
