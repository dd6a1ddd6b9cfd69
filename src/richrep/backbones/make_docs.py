"""Writes the tables of checkpoints: python -m richrep.backbones.make_docs docs/checkpoints.md."""

from __future__ import annotations

import sys
from pathlib import Path

from richrep.backbones.families import FAMILIES
from richrep.backbones.formats import FORMATS
from richrep.backbones.zoo import ZOO

_HEAD = """# Checkpoints

Written from the registries in `src/richrep/backbones` by `python -m richrep.backbones.make_docs docs/checkpoints.md`;
do not edit.

A checkpoint file is recognised by its contents, never by its name. Its **format** is how a training project wraps and
names its networks; its **family** is what builds the network. Every parameter must come from the file, and what is set
aside is said (`richrep inspect FILE`). `ARCH@FILE` gives the architecture where tensors leave a choice.

When a file holds several networks, `FILE#NAME` names one, and `richrep inspect FILE` says which there are. A bare
`FILE` means the first; where none comes first, it is asked for. NAME is:

| NAME | what it is | example |
|---|---|---|
| a network of the format | as the table below says | `trex.pth#ema`, `dino.pth#student` |
| `FORMAT` or `FORMAT:NETWORK` | the same, of a file that several formats fit | `x.pth#rrl`, `x.pth#dino:teacher` |
| `ema` | the average beside a network: `state_dict_ema`, `model_ema`, `ema_state_dict`, … | `deit.pth#ema` |
| a container | what lies under `state_dict`, `model` or `model_state_dict`, else any key | `x.pth#net` |
| a prefix | the tensors whose names start with it and a dot | `x.ckpt#backbone`, `x.pth#ema/backbone` |

In files of no known format a prefix (`backbone.`, `model.encoder.`, `net.`) is taken off by itself when the tensors
under it are a whole network and those beside it plainly no part of one: heads, projectors, losses. Layers wrapped by
the sparse framework or by torch.nn.utils.prune are unwrapped in every container, and their masks kept.

In such files only tensors that are known to take no part in the features are set aside: heads, projectors, prototypes,
queues, losses, decoders, teachers and averages. Any other that the network lacks, such as register tokens, prompts or
adapters, is listed and the file refused; delete it from the file where it does not matter. Masks beside the weights
that no format knows are refused as well, and so is a `config.json` whose `architecture` the tensors are not.

A ViT or RegNet-Y without its last blocks looks like a shallower one, so only depths that were published are guessed.
For others the name spells the network out: `vit_768x11_heads12_patch16_224@FILE` (width x blocks, heads, patch,
picture; `clip_` or `clip_quickgelu_` before the picture), `regnet_y_depths2-5-11-1_widths232-696-1392-3712@FILE`.

`richrep convert FILE OUT.safetensors` writes weights, head, masks and preprocessing in one plain file.

Files far beyond any network are refused early: a state dict of more than 20,000 tensors, a file of more than 50,000,
a name of more than 500 characters or 50 parts, a pickle of more than 500,000 containers or 5,000,000 instructions.
"""


def render_checkpoints_markdown() -> str:
    """The text of docs/checkpoints.md."""
    lines = [_HEAD, "## Formats", "", "| format | what it opens |", "|---|---|"]
    lines += [f"| `{entry.name}` | {entry.description} |" for entry in sorted(FORMATS.values(), key=lambda e: e.name)]
    lines += [
        "| none | a state dict, alone, under `state_dict`, `model` or `model_state_dict` (Lightning, timm, DeiT, "
        "mmpretrain, …), or under the only key with a network (`net`, `weights`, `backbone`, …); torch files (zip and "
        "legacy), safetensors, `.npz`, folders of Hugging Face |",
        "",
        "## Families",
        "",
        "| family | architectures |",
        "|---|---|",
    ]
    for family in FAMILIES.values():
        names = list(family.architectures())
        listed = ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:6])}, … ({len(names)} in all)"
        lines.append(f"| `{family.name}` | {listed} |")
    lines += [
        "",
        "## Published checkpoints by name",
        "",
        "`zoo:NAME` loads the file from `$RICHREP_HOME/checkpoints`; a set is the concatenation of its members.",
        "Slices of the features of one network stand among the sets.",
        "Nothing is downloaded. The sha256 of a file is recorded on its first use and compared ever after.",
        "",
        "| name | paper | architecture | features | licence | file |",
        "|---|---|---|---:|---|---|",
    ]
    for entry in ZOO.values():
        if entry.file:
            lines.append(
                f"| `zoo:{entry.name}` | {entry.paper} | {entry.architecture} | {entry.feature_dim:,} | "
                f"{entry.licence} | `{entry.file}` |"
            )
    lines += ["", "| set | paper | features | members |", "|---|---|---:|---|"]
    for entry in ZOO.values():
        if entry.members:
            columns = f", features {entry.columns[0]:,} to {entry.columns[1]:,}" if entry.columns else ""
            members = ", ".join(f"`{member}`" for member in entry.members) + columns
            lines.append(f"| `zoo:{entry.name}` | {entry.paper} | {entry.feature_dim:,} | {members} |")
    lines += ["", "Where the files are published:", ""]
    places: dict[str, list[str]] = {}
    for entry in ZOO.values():
        if entry.file:
            places.setdefault(entry.published.removesuffix(Path(entry.file).name), []).append(entry.name)
    lines += [f"- {place}: {', '.join(f'`{name}`' for name in names)}" for place, names in places.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render_checkpoints_markdown(), encoding="utf-8")
