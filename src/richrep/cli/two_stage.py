"""`richrep two-stage`: every member fine-tuned alone, then one head on all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from richrep.cli import console, options
from richrep.cli import training_options as training
from richrep.cli.training_report import Failures, report_training, say_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from richrep.evaluation.record import Record


def two_stage(
    context: typer.Context,
    backbones: options.Backbones,
    dataset: options.DatasetAddress,
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            help="Of stage 1: default, rrl-finetune or sparse-finetune; as-is for networks that come fine-tuned.",
        ),
    ] = "default",
    stage2: Annotated[
        list[str] | None,
        typer.Option(
            "--stage2",
            metavar="NAME",
            help="Of stage 2: rrl-two-stage or two-stage-logistic. Repeat for several.",
            show_default="both",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", metavar="N", min=1, help="Members trained at once, sharing the cores.")
    ] = 1,
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
    seeds: training.Seeds = None,
    train_size: options.TrainSize = None,
    test_size: options.TestSize = None,
    data_root: options.DataRoot = None,
    preprocess: options.Preprocess = None,
    device: options.Device = None,
    num_workers: training.NumWorkers = None,
    precision: options.Precision = "fp32",
    memory_limit: options.MemoryLimit = None,
    cache_dir: options.CacheDir = None,
    checkpoint_steps: training.CheckpointSteps = None,
    tracker: training.Tracker = None,
    name: training.Name = None,
    restart: training.Restart = False,
    out: options.Out = options.DEFAULT_OUT,
    json: options.Json = None,
) -> None:
    """Test score of backbones fine-tuned one by one and then joined under one head.

    Stage 1 fine-tunes every backbone alone, with the options of finetune; runs that finetune made or is making under
    the same names are taken over, so a job array may do this part. Stage 2 freezes them and trains one head on their
    features side by side, which begins as the mean of their heads: by the paper's protocol (rrl-two-stage) and as
    logistic regression (two-stage-logistic). The table also holds the members alone and the mean of their logits.

    Example: richrep two-stage -b a.pth -b b.pth -d cifar10 --train-size 2000 --lr 0.01 --epochs 10 --jobs 2
    """
    from pathlib import Path

    from richrep.cli.member_jobs import train_in_parallel
    from richrep.data.datasets import load_dataset
    from richrep.evaluation.transfer import FINETUNE_PROTOCOLS, STAGE2_PROTOCOLS, by_name
    from richrep.evaluation.transfer.runs import Where
    from richrep.evaluation.transfer.two_stage import two_stage as run_two_stage
    from richrep.features.cache import FeatureCache
    from richrep.features.memory import choose_budget
    from richrep.paths import default_cache_root

    console.check_writable(json)
    console.check_folder(out, "--out")
    choose_budget(memory_limit)  # a size that is none is said before anything is loaded
    chosen = training.changed_by(by_name(protocol, FINETUNE_PROTOCOLS), context.params)
    wanted = dict.fromkeys(stage2 or STAGE2_PROTOCOLS)
    second = [by_name(name, STAGE2_PROTOCOLS, "protocol of stage 2") for name in wanted]
    source = load_dataset(dataset, data_root=data_root)
    chosen.cells(source.name)  # a number out of range is said before anything is loaded
    source.train.first(train_size), source.test.first(test_size)
    seeds = training.chosen_seeds(seeds)
    records: list[Record] = []
    failures = Failures(seeds, many=True)

    def keep(record: Record) -> None:
        records.append(record)
        say_record(record)

    for seed in seeds:
        random = any(address.startswith("random/") for address in backbones)
        if seed == seeds[0] or random:
            loaded = console.load_backbones(backbones, seed=seed, preprocess=preprocess, report=seed == seeds[0])

        def start_jobs(runs: Mapping[int, str], seed: int = seed) -> None:
            train_in_parallel(context, {name: backbones[i] for i, name in runs.items()}, seed=seed, jobs=jobs)

        with failures.of_seed(seed, what="two-stage"), console.training_progress() as progress:
            run_two_stage(
                loaded,
                source,
                protocol=chosen,
                stage2=second,
                seed=seed,
                train_size=train_size,
                test_size=test_size,
                memory_limit=memory_limit,
                where=Where(
                    out=Path(out),
                    name=training.name_of_seed(name, seed, seeds),
                    restart=restart,
                    device=device,
                    num_workers=num_workers,
                    precision=precision,  # type: ignore[arg-type]  # the library checks it
                    on_progress=progress,
                    tracker=tracker,
                ),
                before_stage1=start_jobs if jobs > 1 else None,
                on_record=keep,
                cache=FeatureCache(cache_dir or default_cache_root()),
            )
    report_training(records, failures.reasons, out=Path(out), json=json)
