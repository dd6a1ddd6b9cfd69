"""`richrep rank`: which networks should do well, before any head is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from richrep.cli import console, options
from richrep.cli.probe import make_protocol

if TYPE_CHECKING:
    from richrep.evaluation.record import Record


def rank(
    backbones: options.Backbones,
    dataset: options.DatasetAddress,
    scores: Annotated[
        list[str] | None,
        typer.Option("--score", metavar="NAME", help="Only this score. Repeat for several.", show_default="all"),
    ] = None,
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Also probe every network: the true order.")] = True,
    protocol: Annotated[str, typer.Option("--protocol", help="Of the probes: richrep list protocols.")] = "logistic",
    seed: Annotated[
        int,
        typer.Option(
            "--seed", metavar="N", callback=options.check_seed, help="Val part of the probes, random weights."
        ),
    ] = 0,
    train_size: options.TrainSize = None,
    test_size: options.TestSize = None,
    data_root: options.DataRoot = None,
    preprocess: options.Preprocess = None,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    num_workers: options.NumWorkers = None,
    on_bad_image: options.OnBadImage = "stop",
    engine: options.Engine = "torch",
    precision: options.Precision = "fp32",
    fast_decode: options.FastDecode = False,
    fast_resize: options.FastResize = False,
    memory_limit: options.MemoryLimit = None,
    cache_dir: options.CacheDir = None,
    store: options.Store = "fp32",
    out: options.Out = options.DEFAULT_OUT,
    json: options.Json = None,
) -> None:
    """Transferability scores of every backbone, from its training features alone, beside the order of the probes.

    LogME, H-score (plain, and with a shrunk covariance) and linear CKA to the labels read features; LEEP and NCE read
    what the network's own head predicts. Larger is better for all. The probes say how far to trust each: rank
    correlations with their test accuracy.

    Example: richrep rank -b a.pth -b b.pth -b c.pth -d cifar10 --train-size 5000
    """
    from richrep.data.datasets import load_dataset
    from richrep.evaluation.rank import check_scores
    from richrep.evaluation.rank import rank as run_rank
    from richrep.evaluation.record_store import save_record
    from richrep.evaluation.transferability import SCORES
    from richrep.features.cache import FeatureCache
    from richrep.features.memory import choose_budget
    from richrep.paths import default_cache_root
    from richrep.reports.rank import print_agreement_table, print_rank_table
    from richrep.reports.render import render_json, render_rich

    console.check_writable(json)
    console.check_folder(out, "--out")
    console.check_engine(engine, precision, device)
    choose_budget(memory_limit)  # a size that is none is said before anything is loaded
    check_scores(scores or ())  # said before anything is loaded
    chosen = make_protocol(protocol, None)
    source = load_dataset(dataset, data_root=data_root)
    source.train.first(train_size), source.test.first(test_size)  # a size too large is said before anything is loaded
    loaded = console.load_backbones(backbones, seed=seed, preprocess=preprocess)
    records: list[Record] = []
    failures: dict[str, str] = {}

    def keep(record: Record) -> None:
        save_record(record, out)
        records.append(record)

    def fail(name: str, reason: str) -> None:
        failures[name] = reason
        console.say(f"{name}: not measured. {reason}")

    with console.extraction_progress() as progress:
        run_rank(
            loaded,
            source,
            scores=tuple(dict.fromkeys(scores)) if scores else tuple(SCORES),
            with_probe=probe,
            protocol=chosen,
            seed=seed,
            train_size=train_size,
            test_size=test_size,
            cache=FeatureCache(cache_dir or default_cache_root(), store=store),
            batch_size=batch_size,
            device=device,
            num_workers=num_workers,
            on_bad_image=on_bad_image,
            engine=engine,
            precision=precision,  # type: ignore[arg-type]  # the library checks it
            fast_decode=fast_decode,
            fast_resize=fast_resize,
            memory_limit=memory_limit,
            progress=progress,
            on_record=keep,
            on_failure=fail,
        )
    if json != "-":
        screen = console.stdout()
        screen.print(render_rich(print_rank_table(records, failures=failures), width=screen.width))
        for record in records:
            if record.kind == "rank-agreement":
                screen.print(render_rich(print_agreement_table(record), width=screen.width))
    if json is not None:
        console.write_text(json, render_json(records))
    console.say(f"{len(records)} records in {out}.")
    if failures:
        raise typer.Exit(1)
