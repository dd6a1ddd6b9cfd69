"""`richrep search`: which subset of many networks is best together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from richrep.cli import console, options

if TYPE_CHECKING:
    from richrep.evaluation.record import Record


def search(
    backbones: options.Backbones,
    dataset: options.DatasetAddress,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            metavar="NAME",
            help="Every backbone's inner layer NAME is a member too (richrep inspect --layers). Repeat for several.",
        ),
    ] = None,
    strategy: Annotated[
        str, typer.Option("--strategy", metavar="NAME", help="greedy, beam, backward, or exhaustive (10 members).")
    ] = "greedy",
    max_members: Annotated[int, typer.Option("--max-members", metavar="N", min=1, help="Of the chosen subset.")] = 8,
    beam_width: Annotated[
        int, typer.Option("--beam-width", metavar="N", min=1, help="Subsets of each size that beam keeps.")
    ] = 4,
    shortlist: Annotated[
        int,
        typer.Option("--shortlist", metavar="N", min=0, help="Neighbours of the best that each step probes quickly."),
    ] = 8,
    scales: Annotated[
        bool,
        typer.Option(
            "--scales", help="Also learn a scale for every member, a soft subset; not bound by --max-members."
        ),
    ] = False,
    proxy_score: Annotated[
        str,
        typer.Option(
            "--proxy-score",
            metavar="val|loo",
            help="How the quick score is read: on val, or on train leaving one image out, which spares val.",
        ),
    ] = "val",
    normalization: Annotated[
        list[str] | None,
        typer.Option(
            "--normalization", metavar="NAME", help="Full probes try only this. Repeat for several.", show_default="all"
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed", metavar="N", callback=options.check_seed, help="Decides the val part, and random weights."
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
    """Which subset of many backbones is best together, chosen on val and scored on test once.

    Subsets are scored by ridge regression on Gram matrices, which add under concatenation; the best go through the full
    probe. Controls: the best member alone, all together, and the ensemble of the chosen members' own probes. After a
    kill the same command goes on.

    Example: richrep search -b a.th -b b.th -b c.th --layer layer2 -d cifar100
    """
    from pathlib import Path

    from richrep.data.datasets import load_dataset
    from richrep.evaluation.record_store import save_record
    from richrep.evaluation.search.search import SearchProtocol
    from richrep.evaluation.search.search import search as run_search
    from richrep.features.cache import FeatureCache
    from richrep.features.memory import choose_budget
    from richrep.features.normalize import DEFAULT_NORMALIZATIONS
    from richrep.features.pca import split_pca
    from richrep.paths import default_cache_root
    from richrep.reports.render import render_json
    from richrep.reports.search_tables import render_search

    console.check_writable(json)
    console.check_folder(out, "--out")
    console.check_engine(engine, precision, device)
    choose_budget(memory_limit)  # a size that is none is said before anything is loaded
    for name in normalization or ():
        split_pca(name)  # said before anything is loaded
    protocol = SearchProtocol(
        strategy=strategy,
        beam_width=beam_width,
        max_members=max_members,
        shortlist=shortlist,
        learn_scales=scales,
        proxy_score=proxy_score,  # type: ignore[arg-type]  # checked by the protocol
        normalizations=tuple(normalization or DEFAULT_NORMALIZATIONS),
    )
    source = load_dataset(dataset, data_root=data_root)
    source.train.first(train_size), source.test.first(test_size)  # a size too large is said before anything is loaded
    loaded = console.load_backbones(backbones, seed=seed, preprocess=preprocess)
    failures: list[str] = []

    def keep(record: Record) -> None:
        save_record(record, out)

    def fail(name: str, reason: str) -> None:
        failures.append(name)
        console.say(f"{name}: left out. {reason}")

    with console.extraction_progress() as progress:
        records = run_search(
            loaded,
            source,
            layers=layers or (),
            protocol=protocol,
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
            on_step=console.say,
            keep_below=Path(out),
        )
    if json != "-":
        screen = console.stdout()
        screen.print(render_search(records[-1], width=screen.width))
    if json is not None:
        console.write_text(json, render_json(records))
    console.say(f"{len(records)} records in {out}. See them again with: richrep results --out {out}")
    if failures:
        raise typer.Exit(1)
