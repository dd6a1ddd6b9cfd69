"""`richrep distill`: one network taught by several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from richrep.cli import console, options
from richrep.cli import training_options as training
from richrep.cli.training_report import Failures, report_training, say_record

if TYPE_CHECKING:
    from richrep.evaluation.record import Record
    from richrep.evaluation.transfer.protocol import DistillProtocol


def distill(
    context: typer.Context,
    backbones: Annotated[
        list[str], typer.Option("--backbone", "-b", metavar="ADDRESS", help="A teacher. Repeat for several.")
    ],
    students: Annotated[
        list[str],
        typer.Option(
            "--student",
            metavar="ARCH",
            help="An architecture of timm or CIFAR (random weights), or the address of any backbone (where it starts). "
            "Repeat for several, one after the other.",
        ),
    ],
    dataset: options.DatasetAddress,
    protocol: Annotated[str, typer.Option("--protocol", help="default, rrl-distill or rfc-synthesis.")] = "default",
    loss: Annotated[
        str | None,
        typer.Option(
            "--loss",
            metavar="kl|hard|cosine|mse",
            help="On the teachers' logits (kl; hard: their preferred classes) or features (cosine, mse).",
            show_default="kl where a teacher has a head, else cosine",
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="X", help="Of kl.", show_default="by protocol")
    ] = None,
    label_weight: Annotated[
        float | None,
        typer.Option("--label-weight", metavar="X", min=0, help="Of cross-entropy with the labels.", show_default="0"),
    ] = None,
    halves: Annotated[
        bool | None,
        typer.Option(
            "--halves/--no-halves",
            help="Draw half of every batch from the images that all teachers classify rightly, half from the others.",
            show_default="by protocol",
        ),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(
            "--heads",
            metavar="discard|average",
            help="What becomes of the heads; average: one head, where all teachers have the data set's classes.",
            show_default="by protocol",
        ),
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(
            "--views",
            metavar="V",
            min=0,
            help="Teachers run once on V random views of every image, which epochs cycle through; 0: new views every "
            "epoch, teachers run in every step.",
            show_default="by protocol",
        ),
    ] = None,
    labels_alone: Annotated[
        bool, typer.Option("--labels-alone/--no-labels-alone", help="Also the student on labels, with the same budget.")
    ] = True,
    normalization: Annotated[
        list[str] | None,
        typer.Option(
            "--normalization", metavar="NAME", help="Of the probe that measures all.", show_default="as probe"
        ),
    ] = None,
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
    clip_norm: training.ClipNorm = None,
    accumulate: training.Accumulate = None,
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
    cache_dir: options.CacheDir = None,
    checkpoint_steps: training.CheckpointSteps = None,
    tracker: training.Tracker = None,
    name: training.Name = None,
    restart: training.Restart = False,
    out: options.Out = options.DEFAULT_OUT,
    json: options.Json = None,
) -> None:
    """Test score of a student taught by all backbones, beside theirs, their concatenation's, and labels alone.

    The student has one linear head for each teacher, which is held against that teacher's logits, or features where it
    has no head; the losses are added. All rows are measured alike, by the tuned probe of frozen features. Learning rate
    and weight decay are chosen by the student's probe on a val part of train; then all of train is trained on. The
    student is kept as run:NAME. A run that was stopped, also by a kill, goes on when the same command is given again.

    Example: richrep distill -b a.pth -b b.pth --student resnet20 -d cifar10 --train-size 2000
    """
    from dataclasses import replace
    from pathlib import Path

    from richrep.cli.probe import make_protocol
    from richrep.data.datasets import load_dataset
    from richrep.evaluation.task import load_members
    from richrep.evaluation.transfer import DISTILL_PROTOCOLS, by_name
    from richrep.evaluation.transfer.distill import distill as run_distill
    from richrep.evaluation.transfer.distill import student_address
    from richrep.evaluation.transfer.runs import Where
    from richrep.features.cache import FeatureCache
    from richrep.paths import default_cache_root
    from richrep.reports.distill import distill_notes
    from richrep.reports.tables import make_probe_table
    from richrep.training.teachers import choose_matches

    console.check_writable(json)
    console.check_folder(out, "--out")
    chosen = training.changed_by(by_name(protocol, DISTILL_PROTOCOLS), context.params)
    measure = make_protocol("logistic", normalization)
    source = load_dataset(dataset, data_root=data_root)
    source.train.first(train_size), source.test.first(test_size)
    seeds = training.chosen_seeds(seeds)
    addresses = [student_address(student) for student in students]
    teachers = console.load_backbones(backbones, seed=seeds[0], preprocess=preprocess)
    learners = console.load_backbones(addresses, seed=seeds[0], preprocess=preprocess)
    for match in choose_matches(load_members(teachers, seed=seeds[0]), chosen.options.loss):  # by names that differ
        console.say(match.describe())
    for words in dict.fromkeys(_views_in_words(chosen.for_inputs_of([one]), source.name) for one in learners):
        console.say(words)
    records: list[Record] = []
    failures = Failures(seeds, many=len(students) > 1)

    def keep(record: Record) -> None:
        records.append(record)
        say_record(record)

    for seed in seeds:
        if seed != seeds[0]:
            teachers = console.load_backbones(backbones, seed=seed, preprocess=preprocess, report=False)
            learners = console.load_backbones(addresses, seed=seed, preprocess=preprocess, report=False)
        with failures.of_seed(seed, what="distill") as fail, console.training_progress() as progress:
            run_distill(
                teachers,
                learners,
                source,
                protocol=chosen,
                measure=measure,  # type: ignore[arg-type]  # of the name "logistic"
                labels_alone=labels_alone,
                seed=seed,
                train_size=train_size,
                test_size=test_size,
                cache=FeatureCache(cache_dir or default_cache_root()),
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
                on_record=keep,
                on_extract=console.extraction_lines(),
                on_failure=fail,
            )
    table = make_probe_table(records, failures=failures.reasons)
    table = replace(table, notes=(*table.notes, *distill_notes(records)))
    report_training(records, failures.reasons, out=Path(out), json=json, table=table)


def _views_in_words(protocol: DistillProtocol, dataset: str) -> str:
    """When teachers run, by the options of the first cell; all cells agree in it."""
    training = protocol.cells(dataset)[0]
    if not training.cached_views:
        return "The teachers run in every step, on new views of the images."
    if training.view is None:
        return "The teachers run once on every image."
    count = f"{training.cached_views} views" if training.cached_views > 1 else "one view"
    return f"The teachers run once on {count} of every image: {training.view.describe()}."
