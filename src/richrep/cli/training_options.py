"""Options of the commands that train, and the protocol that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from richrep.cli import options

if TYPE_CHECKING:
    from richrep.evaluation.transfer.protocol import TransferProtocol
    from richrep.training.distill import DistillOptions
    from richrep.training.finetune import FinetuneOptions

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
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", min=1, help="Images of a step.", show_default="by protocol")
]
Optimizer = Annotated[
    str | None,
    typer.Option(
        "--optimizer",
        metavar="NAME",
        help="sgd, adamw, schedulefree-sgd or schedulefree-adamw.",
        show_default="by protocol",
    ),
]
ScheduleKind = Annotated[
    str | None,
    typer.Option("--schedule", metavar="NAME", help="constant, cosine or linear, to 0.", show_default="by protocol"),
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
    float | None, typer.Option("--label-smoothing", metavar="X", min=0, max=1, show_default="by protocol")
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
Name = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Of the run, for run:NAME.", show_default="of what it is"),
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

_DISTILL = ("loss", "temperature", "label_weight", "heads", "num_views")


def changed(protocol: TransferProtocol[Options], given: dict[str, Any]) -> TransferProtocol[Options]:
    """The protocol with the options that were given (not None) in place of its own."""
    from dataclasses import replace

    from richrep.data.augment import RandomView
    from richrep.training.mix import MixOptions
    from richrep.training.schedules import Schedule

    given = {name: value for name, value in given.items() if value is not None}
    training: Any = protocol.options  # of which every method has its own fields
    groups = {name: given[name] for name in ("head_lr", "layer_decay") if name in given}
    plain: tuple[str, ...] = (
        "epochs",
        "batch_size",
        "head_init",
        "label_smoothing",
        "norm_layers",
        "clip_norm",
        "accumulate",
        *_DISTILL,
    )
    simple = {name: given[name] for name in (*plain, "early_stop", "ema_decay", "checkpoint_every") if name in given}
    training = replace(training, groups=replace(training.groups, **groups), **simple)
    if "optimizer" in given:
        sgd = given["optimizer"] == "sgd"
        own = training.optimizer
        training = replace(training, optimizer=replace(own, name=given["optimizer"], nesterov=own.nesterov and sgd))
    if "schedule" in given or "warmup_epochs" in given:
        kind = given.get("schedule", training.schedule.kind)
        warmup = given.get("warmup_epochs", training.schedule.warmup_epochs)
        same = kind == training.schedule.kind
        schedule = replace(training.schedule, warmup_epochs=warmup) if same else Schedule(kind, warmup_epochs=warmup)
        training = replace(training, schedule=schedule)
    if "mixup" in given or "cutmix" in given:
        training = replace(training, mix=MixOptions(given.get("mixup", 0.0), given.get("cutmix", 0.0)))
    changes: dict[str, Any] = {"options": training}
    if "crop_scale" in given:
        changes["views_of"] = {}
        changes["options"] = replace(training, view=RandomView(scale=(given["crop_scale"], 1.0)))
    if given.get("augment") is False:
        changes["views_of"] = {}
        changes["options"] = replace(changes["options"], view=None)
    if "lrs" in given:
        changes |= {"lrs": tuple(given["lrs"]), "lrs_of": {}}
    if "weight_decays" in given:
        changes |= {"weight_decays": tuple(given["weight_decays"]), "weight_decays_of": {}}
    if "refit" in given:
        changes["refit"] = given["refit"]
    return replace(protocol, **changes)
