"""The model of a finished run: its backbones and its head, as files; `run:NAME` loads it like any other backbone.

NAME/model/model.yaml              what is there, written last
NAME/model/member0.safetensors     one file a backbone, as `richrep convert` writes them
NAME/model/head.safetensors        weight (K, D) and bias (K,) on the pooled features of all members
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file as read_safetensors
from safetensors.torch import save_file
from torch import nn

from richrep.backbones.backbone import Backbone
from richrep.backbones.concat import concat
from richrep.backbones.convert import convert
from richrep.backbones.input_size import HINT
from richrep.backbones.load_file import load_file
from richrep.errors import AddressError, CheckpointError
from richrep.paths import write_whole

_MANIFEST = "model.yaml"
_HEAD = "head.safetensors"
DEFAULT_RUNS = Path("runs")
_MEMBER = re.compile(r"member\d+\.safetensors")


class RunModel(BaseModel):
    """What `model.yaml` holds.

    Attributes:
        method: "finetune", "two-stage", "distill", …
        members: files of the backbones, in the order of their features.
        num_classes: K of the head; None without one.
        class_names: in the order of the logits.
        dataset: name of what it was trained on.
        note: what happened, one sentence.
        records: ids of the records that scored it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    richrep_model: int = Field(default=1, ge=1, le=1)
    method: str
    members: tuple[str, ...] = Field(min_length=1)
    num_classes: int | None
    class_names: tuple[str, ...] = ()
    dataset: str
    note: str
    records: tuple[str, ...] = ()


def save_run_model(
    folder: Path,
    members: Sequence[Backbone],
    head: nn.Linear | None,
    *,
    method: str,
    dataset: str,
    class_names: Sequence[str] = (),
    note: str = "",
) -> None:
    """Writes the model to the folder `folder`, whole or not at all; one that is there is replaced.

    Args:
        members: one network each, of a known family; their own heads are not written.
        head: on the members' pooled features side by side.

    Raises:
        CheckpointError: a member cannot be laid out as a file, or the folder cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
        files = tuple(f"member{i}.safetensors" for i in range(len(members)))
        for file, member in zip(files, members, strict=True):
            convert(_without_head(member), temporary / file)
        if head is not None:
            tensors = {"weight": head.weight, "bias": head.bias}
            save_file({name: t.detach().cpu().float().contiguous() for name, t in tensors.items()}, temporary / _HEAD)
        model = RunModel(
            method=method,
            members=files,
            num_classes=head.out_features if head is not None else None,
            class_names=tuple(class_names),
            dataset=dataset,
            note=note,
        )
        write_whole(temporary / _MANIFEST, yaml.safe_dump(model.model_dump(mode="json"), sort_keys=False))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"The model cannot be written to {folder}: {error}. Free space, or use --out.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_can_be_kept(members: Sequence[Backbone]) -> None:
    """Raises CheckpointError for a member that `save_run_model` could not write, to be asked before it is trained.

    One whose images were set to another size is written and read once, as its family must lay it out at that size.
    """
    for member in members:
        plain = _without_head(member)
        if plain.origin is not None and HINT in plain.origin.hints:
            with tempfile.TemporaryDirectory(prefix="richrep-") as folder:
                load_file(convert(plain, Path(folder) / "member.safetensors"), address=member.address)


def _without_head(member: Backbone) -> Backbone:
    if member.origin is None:
        raise CheckpointError(
            f"{member.address} is not one network that richrep can lay out again, so it cannot be trained and kept. "
            "Give the networks it is made of; those of a joint run lie in its folder as model/member0.safetensors, …"
        )
    masks = {name: mask for name, mask in member.masks.items() if name.startswith("trunk.")}
    return replace(member, head=None, num_classes=None, masks=masks, origin=replace(member.origin, head_names={}))


def add_records(folder: Path, record_ids: Sequence[str]) -> None:
    """Notes in the model's manifest which records scored it."""
    model = read_run_model(folder).model_copy(update={"records": tuple(record_ids)})
    write_whole(folder / _MANIFEST, yaml.safe_dump(model.model_dump(mode="json"), sort_keys=False))


def read_run_model(folder: Path) -> RunModel:
    """The manifest of the model in `folder`.

    Raises:
        CheckpointError: it is not what richrep writes.
    """
    path = folder / _MANIFEST
    try:
        model = RunModel.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path} is not the model of a run ({reason}). Run the training again with --restart."
        ) from None
    if strange := [file for file in model.members if not _MEMBER.fullmatch(file)]:
        raise CheckpointError(f"{path} names {strange[0]!r} as a member, memberN.safetensors was expected.")
    return model


def run_address(out: Path | str, name: str) -> str:
    """The address by which `find_run` finds the run `name` below `out`.

    >>> run_address("runs", "mine"), run_address("elsewhere", "mine")
    ('run:mine', 'run:elsewhere/mine')
    """
    return f"run:{name}" if Path(out) == DEFAULT_RUNS else f"run:{Path(out) / name}"


def find_run(name: str) -> Path:
    """The model folder of `run:NAME`: NAME is a run below `runs`, or the path of a run's folder.

    Raises:
        AddressError: there is no such run, or it is not finished.
    """
    places = [Path(os.path.expanduser(name)), DEFAULT_RUNS / name]
    for place in places:
        if (place / "model" / _MANIFEST).is_file():
            return place / "model"
    if begun := [place for place in places if name and (place / "options.yaml").is_file()]:
        raise AddressError(f"Run {name!r} in {begun[0]} is not finished. Give the command that began it again.")
    known = sorted(path.parent.parent.name for path in DEFAULT_RUNS.glob(f"*/model/{_MANIFEST}"))
    listed = f" Finished ones in {DEFAULT_RUNS}: {', '.join(known[:8])}." if known else ""
    raise AddressError(
        f"There is no run {name!r}: neither {places[0].absolute()} nor {places[1].absolute()} holds one.{listed} "
        "For runs of another --out write run:DIR/NAME."
    )


def load_run(name: str, *, address: str) -> Backbone:
    """The model of the run `name` as a backbone with a head.

    Raises:
        AddressError, CheckpointError: there is none, or it is not whole.
    """
    folder = find_run(name)
    model = read_run_model(folder)
    members = [load_file(folder / file, address=f"{address}/{file}") for file in model.members]
    if len({member.preprocessing.geometry for member in members}) > 1:
        listed = "; ".join(f"{member.architecture}: {member.preprocessing.describe()}" for member in members)
        raise CheckpointError(
            f"{address} joins networks that resize and crop differently, so it is no single backbone ({listed}). Its "
            "score is in its record; each of its members is a run of its own."
        )
    backbone = members[0] if len(members) == 1 else concat(*members)
    run = folder.parent.name
    backbone = replace(
        backbone,
        address=address,
        name=run,
        load_report=(f"{model.method} on {model.dataset}: {model.note}", *backbone.load_report),
    )
    if model.num_classes is None:
        return backbone
    lines = tuple(line.replace("head: none", f"head: {model.num_classes} classes") for line in backbone.load_report)
    backbone = replace(backbone, load_report=lines)  # a member's file has none; that of the run lies beside it
    return attach_head(backbone, _read_head(folder, model, backbone), class_names=model.class_names)


def attach_head(backbone: Backbone, linear: nn.Linear, *, class_names: Sequence[str] = ()) -> Backbone:
    """The backbone with a linear head on its pooled features, in place of its own."""
    head = nn.Sequential(backbone.pool, linear)
    return replace(backbone, head=head, num_classes=linear.out_features, class_names=tuple(class_names))


def _read_head(folder: Path, model: RunModel, backbone: Backbone) -> nn.Linear:
    path, shape = folder / _HEAD, (model.num_classes, backbone.feature_dim)
    try:
        tensors = read_safetensors(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Run the training again with --restart.") from None
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != {"weight": shape, "bias": shape[:1]}:
        raise CheckpointError(
            f"{path} holds {found}, expected weight {shape} and bias {shape[:1]}. Run the training again with "
            "--restart."
        )
    linear = nn.Linear(backbone.feature_dim, shape[0] or 0)
    with torch.no_grad():
        linear.weight.copy_(tensors["weight"])
        linear.bias.copy_(tensors["bias"])
    return linear
