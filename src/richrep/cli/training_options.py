"""Options of the commands that train, and the protocol that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from richrep.cli import options

if TYPE_CHECKING:
    from richrep.evaluation.transfer.protocol import TransferProtocol
    from richrep.training.distill import DistillOptions
    from richrep.training.finetune import FinetuneOptions
    from richrep.training.schedules import Schedule

Options = TypeVar("Options", "FinetuneOptions", "DistillOptions")

Lrs = Annotated[
    list[float] | None,
    typer.Option(
        "--lr", metavar="X", help="Learning rate. Repeat for several, chosen on val.", show_default="by protocol"
    ),
]
WeightDecays = Annotated[
    list[float] | None,
    typer.Option(
        "--weight-decay",
        metavar="X",
        help="Weight decay. Repeat for several, chosen on val.",
        show_default="by protocol",
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option("--epochs", metavar="N", min=1, help="Passes over the training images.", show_default="by protocol"),
]
NumWorkers = Annotated[
    int | None,
    typer.Option(
        "--num-workers",
        metavar="N",
        min=0,
        help="Threads that decode images.",
        show_default="2 where the processor trains, else one a core",
    ),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", min=1, help="Images of a step.", show_default="by protocol")
]
Optimizer = Annotated[
    str | None,
    typer.Option(
        "--optimizer",
        metavar="NAME",
        help="sgd, adamw, schedulefree-sgd or schedulefree-adamw; the last two keep the learning rate constant unless "
        "--schedule is given.",
        show_default="by protocol",
    ),
]
ScheduleKind = Annotated[
    str | None,
    typer.Option(
        "--schedule", metavar="NAME", help="constant, cosine or linear (to 0) or step.", show_default="by protocol"
    ),
]
Milestones = Annotated[
    list[float] | None,
    typer.Option(
        "--milestone",
        metavar="EPOCH",
        help="Of --schedule step: the learning rate falls to a tenth. Repeat for several.",
        show_default="by protocol",
    ),
]
WarmupEpochs = Annotated[
    float | None,
    typer.Option("--warmup-epochs", metavar="X", min=0, help="Of --schedule; fractions allowed.", show_default="0"),
]
HeadInit = Annotated[
    str | None,
    typer.Option(
        "--head-init",
        metavar="NAME",
        help="default, normal, cat-weights (the members' own heads, averaged) or from-checkpoint.",
        show_default="by protocol",
    ),
]
HeadLr = Annotated[
    float | None,
    typer.Option("--head-lr", metavar="X", min=0, help="Learning rate of the head alone.", show_default="as --lr"),
]
LayerDecay = Annotated[
    float | None,
    typer.Option("--layer-decay", metavar="X", help="Factor on the learning rate, a layer further from the head."),
]
LabelSmoothing = Annotated[
    float | None,
    typer.Option(
        "--label-smoothing",
        metavar="X",
        help="Share of the target for all classes, in [0, 1).",
        show_default="by protocol",
    ),
]
Mixup = Annotated[float | None, typer.Option("--mixup", metavar="ALPHA", min=0, help="Mixes pairs of images.")]
Cutmix = Annotated[float | None, typer.Option("--cutmix", metavar="ALPHA", min=0, help="Pastes parts of images.")]
NormLayers = Annotated[
    str | None,
    typer.Option(
        "--norm-layers",
        metavar="train|eval",
        help="Normalise by the batch, or by the statistics of pretraining.",
        show_default="by protocol",
    ),
]
Ema = Annotated[
    float | None, typer.Option("--ema", metavar="DECAY", help="Keep a running average of the weights, such as 0.999.")
]
ClipNorm = Annotated[float | None, typer.Option("--clip-norm", metavar="X", help="Largest norm of the gradient.")]
Accumulate = Annotated[
    int | None,
    typer.Option("--accumulate", metavar="N", min=1, help="A batch goes through the network in N parts."),
]
EarlyStop = Annotated[
    int | None,
    typer.Option("--early-stop", metavar="N", min=1, help="Stop after N epochs without a rise of the val accuracy."),
]
CropScale = Annotated[
    float | None,
    typer.Option(
        "--crop-scale", metavar="X", help="Smallest area of the random crops, in (0, 1].", show_default="by protocol"
    ),
]
Augment = Annotated[bool, typer.Option("--augment/--no-augment", help="Random crops and flips of the training images.")]
CheckpointSteps = Annotated[
    int | None,
    typer.Option(
        "--checkpoint-steps", metavar="N", min=1, help="Steps between two states on disk.", show_default="an epoch"
    ),
]
Refit = Annotated[
    bool | None,
    typer.Option(
        "--refit/--no-refit", help="Train the chosen cell again on train and val.", show_default="by protocol"
    ),
]
KeepSelected = Annotated[
    bool,
    typer.Option(
        "--keep-selected",
        help="Also keep the chosen cell trained on train alone, as run:NAME/selected. With several cells it is there "
        "anyway; with one it is a training more, which two-stage needs.",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="Of the run, for run:NAME; with several seeds NAME-s0, …",
        show_default="of what it is",
    ),
]
Tracker = Annotated[
    str | None,
    typer.Option(
        "--tracker",
        metavar="NAME",
        help="Draw loss, learning rate and val scores: tensorboard (in the run's folder), wandb, … if installed.",
        show_default="none",
    ),
]
Restart = Annotated[bool, typer.Option("--restart", help="Begin runs anew instead of going on.")]
Seeds = Annotated[
    list[int] | None,
    typer.Option(
        "--seed",
        metavar="N",
        callback=options.check_seed,
        help="Val part, first weights of the head, order and views of the images. Repeat for several.",
        show_default="0",
    ),
]

_REPEATED = ("lrs", "weight_decays", "milestones")
_RENAMED = {"ema": "ema_decay", "checkpoint_steps": "checkpoint_every", "views": "num_views"}  # parameter -> field
_FIELDS = (  # of the options of a training
    *("epochs", "batch_size", "head_init", "label_smoothing", "norm_layers", "ema_decay", "clip_norm", "accumulate"),
    *("early_stop", "checkpoint_every", "loss", "temperature", "label_weight", "halves", "heads", "num_views"),
)
_MADE = ("optimizer", "schedule", "warmup_epochs", "head_lr", "layer_decay", "mixup", "cutmix", "crop_scale", "augment")
_KNOWN = (*_REPEATED, *_FIELDS, *_MADE, "refit")


# options that are not written as they are called
_WRITTEN = {"lrs": "lr", "weight_decays": "weight-decay of several", "milestones": "milestone", "ema_decay": "ema"}


def changed_by(protocol: TransferProtocol[Options], parameters: Mapping[str, Any]) -> TransferProtocol[Options]:
    """The protocol with what a command was given; `parameters` are all of its, by their names in its function."""
    given = {_RENAMED.get(name, name): value for name, value in parameters.items()}
    given = {name: value for name, value in given.items() if name in _KNOWN}
    return changed(protocol, given | {name: list(given.get(name) or ()) or None for name in _REPEATED})


def chosen_seeds(seeds: Sequence[int] | None) -> list[int]:
    """The seeds, each once; 0 without any."""
    return list(dict.fromkeys(seeds or [0]))


def name_of_seed(name: str | None, seed: int, seeds: Sequence[int]) -> str | None:
    """The given name; with several seeds "NAME-s0", "NAME-s1", …"""
    return f"{name}-s{seed}" if name is not None and len(seeds) > 1 else name


def changed(protocol: TransferProtocol[Options], given: dict[str, Any]) -> TransferProtocol[Options]:
    """The protocol with the options that were given (not None) in place of its own."""
    from dataclasses import replace

    from richrep.data.augment import RandomView
    from richrep.errors import RichrepError
    from richrep.training.mix import MixOptions

    given = {name: value for name, value in given.items() if value is not None}
    if protocol.options.epochs == 0:
        _check_nothing_is_trained(protocol.name, given)
    training: Any = protocol.options  # of which every method has its own fields
    groups = {name: given[name] for name in ("head_lr", "layer_decay") if name in given}
    simple = {name: given[name] for name in _FIELDS if name in given}
    schedule = _changed_schedule(training.schedule, given)
    training = replace(training, groups=replace(training.groups, **groups), schedule=schedule, **simple)
    if "optimizer" in given:
        sgd = given["optimizer"] == "sgd"
        own = training.optimizer
        training = replace(training, optimizer=replace(own, name=given["optimizer"], nesterov=own.nesterov and sgd))
    if "mixup" in given or "cutmix" in given:
        training = replace(training, mix=MixOptions(given.get("mixup", 0.0), given.get("cutmix", 0.0)))
    changes: dict[str, Any] = {"options": training}
    if "crop_scale" in given and given.get("augment") is False:
        raise RichrepError("--crop-scale is of the random crops that --no-augment leaves out. Give one of them.")
    if "crop_scale" in given:
        changes |= {"views_of": {}, "small_view": None}
        changes["options"] = replace(training, view=RandomView(scale=(given["crop_scale"], 1.0)))
    if given.get("augment") is False:
        changes |= {"views_of": {}, "small_view": None}
        changes["options"] = replace(changes["options"], view=None)
    if "lrs" in given:
        changes |= {"lrs": tuple(given["lrs"]), "lrs_of": {}}
    if "weight_decays" in given:
        changes |= {"weight_decays": tuple(given["weight_decays"]), "weight_decays_of": {}}
    if "refit" in given:
        changes["refit"] = given["refit"]
    return replace(protocol, **changes)


def _check_nothing_is_trained(name: str, given: Mapping[str, Any]) -> None:
    """Raises RichrepError for options of a training, where there is none; one weight decay is of a second stage."""
    from richrep.errors import RichrepError

    meant = {"checkpoint_every"} | ({"augment"} if given.get("augment") is not False else set())
    meant |= {"weight_decays"} if len(given.get("weight_decays", ())) == 1 else set()
    words = [_WRITTEN.get(option, option).replace("_", "-") for option in given if option not in meant]
    if words:
        raise RichrepError(
            f"Protocol {name} trains nothing, so {', '.join(f'--{word}' for word in words)} says nothing there. "
            "Leave it out, or choose another protocol."
        )


def _changed_schedule(own: Schedule, given: dict[str, Any]) -> Schedule:
    """The protocol's schedule with what was given; another kind takes over the warm-up alone."""
    from dataclasses import replace

    from richrep.errors import RichrepError
    from richrep.training.schedules import Schedule

    free = given.get("optimizer", "").startswith("schedulefree")  # these need none, and average over a constant one
    kind = given.get("schedule", "step" if "milestones" in given else "constant" if free else own.kind)
    warmup = given.get("warmup_epochs", own.warmup_epochs)
    if "milestones" in given:
        if kind != "step":
            raise RichrepError(f"--milestone is of --schedule step, got --schedule {kind}.")
        return Schedule(kind, warmup_epochs=warmup, milestones=tuple(given["milestones"]))
    if kind == own.kind:
        return replace(own, warmup_epochs=warmup)
    if kind == "step":
        raise RichrepError("--schedule step needs the epochs at which the learning rate falls: --milestone 10.")
    return Schedule(kind, warmup_epochs=warmup)
