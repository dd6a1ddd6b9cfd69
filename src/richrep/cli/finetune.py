"""`richrep finetune`: backbones trained on the task, each alone or all jointly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from richrep.cli import console, options
from richrep.cli import training_options as training
from richrep.cli.torchrun import Worker
from richrep.cli.training_report import Failures, report_training, say_record

if TYPE_CHECKING:
    from richrep.evaluation.record import Record


def finetune(
    context: typer.Context,
    backbones: options.Backbones,
    dataset: options.DatasetAddress,
    protocol: Annotated[
        str, typer.Option("--protocol", help="One of kind finetune of: richrep list protocols.")
    ] = "default",
    init_cat: Annotated[
        bool, typer.Option("--init-cat", help="All backbones together, concatenated under one head.")
    ] = False,
    lrs: training.Lrs = None,
    weight_decays: training.WeightDecays = None,
    epochs: training.Epochs = None,
    batch_size: training.BatchSize = None,
    optimizer: training.Optimizer = None,
    schedule: training.ScheduleKind = None,
    milestones: training.Milestones = None,
    warmup_epochs: training.WarmupEpochs = None,
    head_init: training.HeadInit = None,
    head_lr: training.HeadLr = None,
    layer_decay: training.LayerDecay = None,
    label_smoothing: training.LabelSmoothing = None,
    mixup: training.Mixup = None,
    cutmix: training.Cutmix = None,
    norm_layers: training.NormLayers = None,
    ema: training.Ema = None,
    clip_norm: training.ClipNorm = None,
    accumulate: training.Accumulate = None,
    early_stop: training.EarlyStop = None,
    crop_scale: training.CropScale = None,
    augment: training.Augment = True,
    refit: training.Refit = None,
    keep_selected: training.KeepSelected = False,
    seeds: training.Seeds = None,
    train_size: options.TrainSize = None,
    test_size: options.TestSize = None,
    data_root: options.DataRoot = None,
    preprocess: options.Preprocess = None,
    device: options.Device = None,
    num_workers: training.NumWorkers = None,
    precision: options.Precision = "fp32",
    checkpoint_steps: training.CheckpointSteps = None,
    tracker: training.Tracker = None,
    name: training.Name = None,
    restart: training.Restart = False,
    out: options.Out = options.DEFAULT_OUT,
    json: options.Json = None,
) -> None:
    """Test score of every backbone fine-tuned on the data set, or of all fine-tuned jointly (--init-cat).

    Learning rate and weight decay are chosen on a val part of train (20 %, per class, by the seed), the chosen ones are
    trained again on all of train, and test is scored once. The model is kept as run:NAME. A run that was stopped, also
    by a kill, goes on when the same command is given again.

    Example: richrep finetune -b a.pth -d cifar10 --train-size 2000 --lr 0.01 --lr 0.03 --epochs 10
    """
    from contextlib import nullcontext
    from pathlib import Path

    from richrep.data.datasets import load_dataset
    from richrep.errors import RichrepError
    from richrep.evaluation.transfer import FINETUNE_PROTOCOLS, by_name
    from richrep.evaluation.transfer.finetune import finetune as run_finetune
    from richrep.evaluation.transfer.runs import Where

    worker = Worker.from_environment()
    worker.begin_training()
    console.check_writable(json)
    console.check_folder(out, "--out")
    chosen = training.changed_by(by_name(protocol, FINETUNE_PROTOCOLS), context.params)
    if init_cat and len(backbones) < 2:
        raise RichrepError("--init-cat trains several backbones together: give at least two with -b.")
    source = load_dataset(dataset, data_root=data_root)
    chosen.cells(source.name)  # a number out of range is said before anything is loaded
    source.train.first(train_size), source.test.first(test_size)
    seeds = training.chosen_seeds(seeds)
    loaded = console.load_backbones(backbones, seed=seeds[0], preprocess=preprocess, report=worker.prints_results)
    records: list[Record] = []
    failures = Failures(seeds, many=len(backbones) > 1 and not init_cat)

    def keep(record: Record) -> None:
        records.append(record)
        say_record(record)

    for seed in seeds:
        if seed != seeds[0] and any(address.startswith("random/") for address in backbones):
            loaded = console.load_backbones(backbones, seed=seed, preprocess=preprocess, report=False)
        shown = console.training_progress() if worker.prints_results else nullcontext()
        with failures.of_seed(seed, what="finetune") as fail, shown as progress:
            run_finetune(
                loaded,
                source,
                protocol=chosen,
                joint=init_cat,
                seed=seed,
                train_size=train_size,
                test_size=test_size,
                keep_selected=keep_selected,
                where=Where(
                    out=Path(out),
                    name=training.name_of_seed(name, seed, seeds),
                    restart=restart,
                    device=worker.choose_device(device),
                    num_workers=num_workers,
                    precision=precision,  # type: ignore[arg-type]  # the library checks it
                    on_progress=progress,
                    tracker=tracker,
                ),
                on_record=keep,
                on_failure=fail,
            )
    report_training(records, failures.reasons, out=Path(out), json=json)
