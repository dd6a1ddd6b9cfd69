"""Checkpoint -> Backbone: find the one architecture that fits, or say which are nearest; then load it exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from richrep.backbones.backbone import Backbone, MaskSource, Origin
from richrep.backbones.blank import build_without_weights, shapes_only
from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families.candidate import Candidate, nothing_fits, several_fit
from richrep.backbones.families.family import Family, Layout, knows, unknown_architecture
from richrep.backbones.families.metadata import licence_of, named_in_metadata, wants_same_padding
from richrep.backbones.matching import Comparison, compare, describe_ignored, load_exactly
from richrep.backbones.padding import use_same_padding
from richrep.backbones.sparsity import describe_masks, infer_masks
from richrep.errors import AddressError, CheckpointError, unknown_name_message


def find_architecture(
    families: Sequence[Family], checkpoint: Checkpoint, *, wanted: str = ""
) -> tuple[Candidate, tuple[str, ...]]:
    """The one architecture that `checkpoint` holds, and the addresses of others that would fit as well.

    Args:
        wanted: architecture given by the user, "resnet50" or "timm/resnet50"; empty means detect it.

    Raises:
        AddressError: `wanted` names no architecture.
        CheckpointError: nothing fits (the message holds the nearest and every mismatch), or several do.
    """
    named = _named(families, wanted) if wanted else [(f, a) for f in families for a in f.detect(checkpoint)]
    candidates = [_compare(family, name, checkpoint) for family, name in named]
    fitting = [candidate for candidate in candidates if candidate.fits]
    if not fitting:
        near = [] if wanted else [(f, a) for f in families for a in f.nearest(checkpoint) if (f, a) not in named]
        candidates += [_compare(family, name, checkpoint) for family, name in near]
        raise CheckpointError(nothing_fits(candidates, checkpoint, wanted))
    if not wanted:
        _check_stated(families, fitting, checkpoint)
    chosen = _resolve(fitting, checkpoint)
    if len(chosen) > 1:
        raise CheckpointError(several_fit(chosen, checkpoint))
    others = tuple(candidate.address for candidate in fitting if candidate is not chosen[0])
    return chosen[0], others


def _check_stated(families: Sequence[Family], fitting: Sequence[Candidate], checkpoint: Checkpoint) -> None:
    """Raises CheckpointError when the metadata `architecture` is a known one that the tensors are not."""
    stated = checkpoint.metadata.get("architecture", "").partition(".")[0]
    known = [family for family in families if stated and knows(family, stated)]
    if not known or any(candidate.architecture == stated for candidate in fitting):
        return
    if not any(_compare(family, stated, checkpoint).fits for family in known):
        found = fitting[0].address
        raise CheckpointError(
            f"{checkpoint.path}: its metadata says architecture {stated!r}, but its tensors are those of {found}. If "
            f"the tensors are right, write {found}@{checkpoint.path}; else get the file that belongs to them."
        )


def fits(family: Family, architecture: str, checkpoint: Checkpoint) -> bool:
    """Whether `checkpoint` holds exactly this architecture."""
    return _compare(family, architecture, checkpoint).fits


def build_backbone(family: Family, architecture: str, checkpoint: Checkpoint, *, address: str) -> Backbone:
    """The backbone of `architecture` with the weights of `checkpoint`.

    Raises CheckpointError, listing all mismatches, unless every tensor of trunk and head comes from the file.
    """
    what = f"{checkpoint.path} as {family.name}/{architecture}"
    layout = build_without_weights(lambda: _lay_out(family, architecture, checkpoint), _modules)
    comparison = _compare_layout(layout, checkpoint)
    comparison.check(what=what)
    load_exactly(layout.trunk, _tensors_of_trunk(layout), what=what)
    if layout.head is not None:
        load_exactly(layout.head, _tensors_of_head(layout), what=what)
    masks, mask_source = _masks(layout, checkpoint)
    return Backbone(
        trunk=layout.trunk.eval(),
        pool=layout.pool.eval(),
        head=layout.head.eval() if layout.head is not None else None,
        preprocessing=layout.preprocessing,
        address=address,
        name=architecture,
        family=checkpoint.format or family.name,
        architecture=architecture,
        feature_dim=layout.feature_dim,
        num_classes=_num_classes(layout),
        sha256=checkpoint.sha256,
        licence=licence_of(checkpoint),
        variant=layout.variant,
        load_report=(
            _first_line(layout, comparison),
            *checkpoint.notes,
            *layout.notes,
            *describe_masks(masks, mask_source, trunk=layout.trunk, head=layout.head),
        ),
        masks=masks,
        mask_source=mask_source,
        origin=Origin(
            family.name,
            head_names=dict(layout.head_names),
            hints={hint: value for hint, value in checkpoint.hints.items() if hint != "shapes"},
        ),
    )


def _named(families: Sequence[Family], wanted: str) -> list[tuple[Family, str]]:
    """Every (family, architecture) that the user may mean by `wanted`."""
    prefix, _, architecture = wanted.rpartition("/")
    named = [(f, architecture) for f in families if prefix in ("", f.name) and knows(f, architecture)]
    if not named:
        meant = [family for family in families if prefix in ("", family.name)]
        if not meant:
            raise AddressError(unknown_name_message("checkpoint family", prefix, [f.name for f in families]))
        raise unknown_architecture(meant, architecture)
    return named


def _compare(family: Family, architecture: str, checkpoint: Checkpoint) -> Candidate:
    with shapes_only():
        layout = _lay_out(family, architecture, checkpoint)
        heeded = {"shapes", *layout.heeded}  # shapes: here, in _lay_out
        unheeded = tuple(f"{hint}: {value}" for hint, value in checkpoint.hints.items() if hint not in heeded)
        comparison = _compare_layout(layout, checkpoint)
        return Candidate(family, architecture, comparison, layout.preprocessing.describe(), unheeded)


def _lay_out(family: Family, architecture: str, checkpoint: Checkpoint) -> Layout:
    """The family's layout, with the shapes of the network and the padding that the metadata asks for."""
    layout = family.lay_out(architecture, checkpoint)
    if checkpoint.hints.get("shapes") == "flattened":
        layout = replace(layout, tensors=_unflattened(layout))
    if not wants_same_padding(checkpoint):
        return layout
    use_same_padding(layout.trunk, what=f"{checkpoint.path} as {family.name}/{architecture}")
    return replace(layout, variant="SAME padding", notes=(*layout.notes, "TensorFlow SAME padding, as the file says"))


def _unflattened(layout: Layout) -> dict[str, torch.Tensor]:
    """The tensors, those with one or two dimensions instead of a kernel's four in the shape of the network.

    Reshaped only when the number of values agrees, and with two dimensions the number of rows.
    """
    tensors = dict(layout.tensors)
    for name, wanted in _expected(layout).items():
        found = tensors.get(name)
        if found is None or wanted.ndim != 4 or found.numel() != wanted.numel():
            continue
        if found.ndim == 1 or (found.ndim == 2 and found.shape[0] == wanted.shape[0]):
            tensors[name] = found.reshape(wanted.shape)
    return tensors


def _compare_layout(layout: Layout, checkpoint: Checkpoint) -> Comparison:
    """Trunk and head at once, under the names of `layout.tensors`.

    A format hands over one network, without what lies beside it, so there nothing is foreign; in a plain file nobody
    knows where the network ends.
    """
    set_aside = set(layout.set_aside)
    tensors = {name: tensor for name, tensor in layout.tensors.items() if name not in set_aside}
    return compare(tensors, _expected(layout), whole=bool(checkpoint.format))


def _expected(layout: Layout) -> dict[str, torch.Tensor]:
    """The state dict of trunk and head under the names of `layout.tensors`."""
    expected = dict(layout.trunk.state_dict())
    if layout.head is not None:
        head = layout.head.state_dict()
        expected |= {name: head[name_in_head] for name, name_in_head in layout.head_names.items()}
    return expected


def _masks(layout: Layout, checkpoint: Checkpoint) -> tuple[dict[str, torch.Tensor], MaskSource]:
    """The masks of trunk and head that prune something, of the file or inferred, and where they come from."""
    if not checkpoint.masks:
        masks = infer_masks(layout.trunk, layout.head)
        return masks, "zeros" if masks else ""
    own = {name: f"trunk.{name}" for name in layout.trunk.state_dict()}
    own |= {name: f"head.{name_in_head}" for name, name_in_head in layout.head_names.items()}
    real = {name: mask for name, mask in checkpoint.masks.items() if name in own and not mask.all()}
    shapes = {name: tensor.shape for name, tensor in _expected(layout).items()}
    return {own[name]: mask.reshape(shapes[name]).clone() for name, mask in real.items()}, "file"


def _tensors_of_trunk(layout: Layout) -> dict[str, torch.Tensor]:
    others = {*layout.head_names, *layout.set_aside}
    return {name: tensor for name, tensor in layout.tensors.items() if name not in others}


def _tensors_of_head(layout: Layout) -> dict[str, torch.Tensor]:
    return {name_in_head: layout.tensors[name] for name, name_in_head in layout.head_names.items()}


def _modules(layout: Layout) -> list[nn.Module]:
    return [module for module in (layout.trunk, layout.pool, layout.head) if module is not None]


def _resolve(fitting: Sequence[Candidate], checkpoint: Checkpoint) -> list[Candidate]:
    """Of several that fit: those that ignore least, then those the file names, then by the families' precedence."""
    fewest = min(len(candidate.comparison.ignored) for candidate in fitting)
    best = [candidate for candidate in fitting if len(candidate.comparison.ignored) == fewest]
    named = named_in_metadata(checkpoint, [candidate.architecture for candidate in best])
    if named:
        best = [candidate for candidate in best if candidate.architecture in named]
    present = {candidate.family.name for candidate in best}
    return [candidate for candidate in best if not present & set(candidate.family.yields_to)]


def _num_classes(layout: Layout) -> int | None:
    """Rows of the head's weight."""
    return len(next(iter(layout.head.parameters()))) if layout.head is not None else None


def _first_line(layout: Layout, comparison: Comparison) -> str:
    num_classes = _num_classes(layout)
    has_no_bias = isinstance(layout.head, nn.Linear) and layout.head.bias is None
    kind = f"{layout.head_kind}, no bias" if has_no_bias else layout.head_kind
    head = f"{num_classes} classes ({kind})" if num_classes is not None else "none"
    return (
        f"matched {comparison.matched} of {comparison.total}; head: {head}; "
        f"ignored: {describe_ignored(comparison.ignored)}"
    )
