"""One file of a public hub: from its cache, else downloaded with time limits, else an error that says what to do."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import tempfile
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

import torch

from richrep.errors import CheckpointError
from richrep.paths import is_offline

_TIMEOUT_S = 20  # of one network operation; a dead network must not hang a run
_HUB_TIMEOUT_S = 10  # the same at Hugging Face, whose client tries six times
_CHUNK_BYTES = 1 << 20
_HUGGING_FACE_FILES = ("model.safetensors", "pytorch_model.bin")  # in order of preference


def fetch_url(url: str, *, what: str) -> Path:
    """The file of `url` in torch's hub cache; names like `resnet18-f37072fd.pth` hold the hash that is checked.

    Raises CheckpointError when it is not there and cannot be fetched.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlparse(url).path).name
    if path.exists():
        return path
    if is_offline():
        raise _not_cached(what, f"put {url} at {path}")
    if urlparse(url).scheme != "https":
        raise CheckpointError(f"{what}: {url} is not an https address, so it is not fetched. Put the file at {path}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _download(url, path)
    except (OSError, http.client.HTTPException) as error:
        raise _not_fetched(what, url, error, f"put it at {path}") from None
    return path


def fetch_from_hugging_face(repo: str, filename: str | None, *, what: str) -> Path:
    """A file of a Hugging Face repository ("owner/name" or "owner/name@revision"), safetensors where there is one.

    Raises CheckpointError when it is not in the cache and cannot be fetched.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    repo, _, revision = repo.partition("@")
    filenames = (filename,) if filename else _HUGGING_FACE_FILES
    for name in filenames:
        cached = try_to_load_from_cache(repo, name, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    advice = f"run `hf download {repo} {filenames[0]}` on a machine with network and copy its cache"
    if is_offline():
        raise _not_cached(what, advice)
    for name in filenames:
        try:
            return Path(hf_hub_download(repo, name, revision=revision or None, etag_timeout=_HUB_TIMEOUT_S))
        except LocalEntryNotFoundError as error:
            raise _not_fetched(what, f"https://huggingface.co/{repo}", error, advice) from None
        except EntryNotFoundError:
            continue
        except (OSError, HfHubHTTPError, ValueError) as error:
            raise _not_fetched(what, f"https://huggingface.co/{repo}", error, advice) from None
    raise CheckpointError(f"{what}: https://huggingface.co/{repo} has none of {', '.join(filenames)}.")


def _download(url: str, path: Path) -> None:
    """Whole or not at all: to a temporary file beside `path`, checked against the hash in the name, then renamed."""
    wanted = re.search(r"-([0-9a-f]{8,})\.", path.name)
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
                while chunk := response.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    part.write(chunk)
            part.close()
            if wanted and not digest.hexdigest().startswith(wanted[1]):
                raise OSError(f"its SHA-256 is {digest.hexdigest()}, expected one that starts with {wanted[1]}")
            os.replace(part.name, path)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise


def _not_cached(what: str, advice: str) -> CheckpointError:
    return CheckpointError(
        f"{what}: its weights are not in the cache and RICHREP_OFFLINE or HF_HUB_OFFLINE forbids the network. "
        f"Unset it, or {advice}."
    )


def _not_fetched(what: str, url: str, error: Exception, advice: str) -> CheckpointError:
    lines = str(error).strip().splitlines()
    reason = lines[0].rstrip(".") if lines else type(error).__name__
    return CheckpointError(
        f"{what}: its weights are not in the cache and {url} cannot be fetched ({reason}). "
        f"Check the network, or {advice}."
    )
