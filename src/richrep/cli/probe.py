"""`richrep probe`: the main job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar, cast

import typer

from richrep.cli import console, options

if TYPE_CHECKING:
    from pathlib import Path

    from richrep.backbones.backbone import Backbone
    from richrep.evaluation.protocols.legacy_test_selection import LegacyTestSelection
    from richrep.evaluation.protocols.protocol import ProbeProtocol
    from richrep.evaluation.record import Record

Protocol = TypeVar("Protocol", bound="ProbeProtocol | LegacyTestSelection")


def probe(
    backbones: options.Backbones,
    dataset: options.DatasetAddress,
    protocol: Annotated[str, typer.Option("--protocol", help="See: richrep list protocols.")] = "logistic",
    normalization: Annotated[
        list[str] | None,
        typer.Option(
            "--normalization",
            metavar="NAME",
            help="Try only this: none, standard, block-rms, block-l2, l2, pca:64, standard+pca:64. Repeat for several.",
            show_default="the first four",
        ),
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option(
            "--seed",
            metavar="N",
            callback=options.check_seed,
            help="Decides the val part, and random weights. Repeat for several.",
            show_default="0",
        ),
    ] = None,
    own_head: Annotated[
        bool, typer.Option("--own-head", help="Also score the classifiers found in the checkpoints, untouched.")
    ] = False,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Also score the mean of the members' own probes' logits.")
    ] = False,
    lrs: Annotated[
        list[float] | None,
        typer.Option("--lr", metavar="X", help="Of a protocol by SGD. Repeat for several, chosen on val."),
    ] = None,
    weight_decays: Annotated[
        list[float] | None,
        typer.Option("--weight-decay", metavar="X", help="Of a protocol by SGD. Repeat for several, chosen on val."),
    ] = None,
    train_size: options.TrainSize = None,
    test_size: options.TestSize = None,
    data_root: options.DataRoot = None,
    preprocess: options.Preprocess = None,
    views: options.Views = None,
    view_scale: options.ViewScale = None,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    num_workers: options.NumWorkers = None,
    on_bad_image: options.OnBadImage = "stop",
    engine: options.Engine = "torch",
    precision: options.Precision = "fp32",
    fast_decode: options.FastDecode = False,
    fast_resize: options.FastResize = False,
    profile: options.Profile = False,
    memory_limit: options.MemoryLimit = None,
    cache_dir: options.CacheDir = None,
    store: options.Store = "fp32",
    out: options.Out = options.DEFAULT_OUT,
    json: options.Json = None,
) -> None:
    """Tuned test score of every backbone alone and, with two or more, of their concatenation.

    Penalty and normalisation are chosen on a val part of train (20 %, per class, by the seed), the head is refitted on
    all of train, and test is scored once. Features are cached: a second run only fits. Another --protocol tunes another
    head in the same way: ridge, knn, prototypes, cosine; or a paper's: rrl-linear, sparse-linear, swav-linear,
    trex-sgd, trex-lbfgs (legacy-trex-sgd, legacy-trex-lbfgs: with the faults of its code). Few training images: vtab1k
    draws 1,000, kshot:N draws N a class ten times and reports the mean (kshot-whole-val:N selects on all of val).

    Example: richrep probe -b a.pth -b b.safetensors -d cifar10 --train-size 5000
    """
    from richrep.data.augment import RandomView
    from richrep.data.datasets import load_dataset
    from richrep.evaluation.probe import probe as run_probe
    from richrep.evaluation.record_store import save_record
    from richrep.features.cache import FeatureCache
    from richrep.features.memory import choose_budget
    from richrep.features.profile import ExtractionProfile
    from richrep.paths import default_cache_root
    from richrep.reports.render import render_json, render_rich
    from richrep.reports.tables import make_probe_table

    console.check_writable(json)
    console.check_folder(out, "--out")
    console.check_engine(engine, precision, device)
    options.check_view_scale(view_scale)
    choose_budget(memory_limit)  # a size that is none is said before anything is loaded
    chosen = with_grid(make_twin(protocol, normalization) or make_protocol(protocol, normalization), lrs, weight_decays)
    _say_views(chosen, views)
    seeds = list(dict.fromkeys(seeds or [0]))
    source = load_dataset(dataset, data_root=data_root)
    source.train.first(train_size), source.test.first(test_size)  # a size too large is said before anything is loaded
    loaded = console.load_backbones(backbones, seed=seeds[0], preprocess=preprocess)
    _say_heads_that_do_not_fit(loaded, source.test.num_classes, own_head)
    records: list[Record] = []
    failures: dict[str, str] = {}
    measured = ExtractionProfile()

    def keep(record: Record) -> None:
        save_record(record, out)
        records.append(record)
        accuracy = record.score("test", "accuracy") or 0.0
        console.say(f"{record.representation}: test {100 * accuracy:.2f} % (seed {record.seed})")

    def fail(name: str, reason: str) -> None:
        failures[name] = reason
        console.say(f"{name}: not measured. {reason}")

    for seed in seeds:
        if seed != seeds[0] and any(address.startswith("random/") for address in backbones):
            loaded = console.load_backbones(backbones, seed=seed, preprocess=preprocess)
        with console.extraction_progress() as progress:
            run_probe(
                loaded,
                source,
                protocol=chosen,
                seed=seed,
                train_size=train_size,
                test_size=test_size,
                own_head=own_head,
                ensemble=ensemble,
                views=views,
                view=None if view_scale is None else RandomView(scale=(view_scale, 1.0)),
                cache=FeatureCache(cache_dir or default_cache_root(), store=store),
                batch_size=batch_size,
                device=device,
                num_workers=num_workers,
                on_bad_image=on_bad_image,
                engine=engine,
                precision=precision,  # type: ignore[arg-type]  # the library checks it
                fast_decode=fast_decode,
                fast_resize=fast_resize,
                profile=measured if profile else None,
                memory_limit=memory_limit,
                progress=progress,
                on_record=keep,
                on_failure=fail,
            )
    if json != "-":
        screen = console.stdout()
        screen.print(render_rich(make_probe_table(records, failures=failures), width=screen.width))
    if json is not None:
        console.write_text(json, render_json(records))
    _say_where(records, out)
    if profile:
        console.say_profile(measured)
    if failures:
        raise typer.Exit(1)


def _say_views(protocol: Protocol, views: int | None) -> None:
    """What a protocol's random views cost, where nobody asked for a number of them."""
    from richrep.evaluation.protocols.legacy_test_selection import LegacyTestSelection

    base = protocol.base if isinstance(protocol, LegacyTestSelection) else protocol
    own = getattr(base, "views", 1)
    if views is None and own > 1:
        console.say(
            f"{protocol.name}: {own} random views of every training image, which take {own} extractions once. "
            "--views 1 takes the images as they are."
        )


def make_twin(name: str, normalizations: list[str] | None) -> LegacyTestSelection | None:
    """The twin of that name, which chooses on test as papers did and is announced; None for any other name."""
    from richrep.evaluation import protocols
    from richrep.evaluation.protocols.legacy_test_selection import NOTE

    options = {"normalizations": tuple(normalizations)} if normalizations else {}
    twin = protocols.make_twin(name, **options)
    if twin is not None:
        console.say(f"{name}: {NOTE}")
    return twin


def make_protocol(name: str, normalizations: list[str] | None) -> ProbeProtocol:
    """The protocol `name` with the given normalisations; RichrepError for one that is unknown, or chooses on test."""
    from richrep.evaluation import protocols
    from richrep.features.pca import split_pca

    for normalization in normalizations or ():
        split_pca(normalization)  # said before anything is loaded
    given = {"normalizations": tuple(normalizations)} if normalizations else {}
    return protocols.make_protocol(name, **given)


def with_grid(protocol: Protocol, lrs: list[float] | None, weight_decays: list[float] | None) -> Protocol:
    """The protocol with the given learning rates and weight decays; RichrepError for one that has none."""
    from richrep.errors import RichrepError
    from richrep.evaluation.protocols.legacy_test_selection import LegacyTestSelection
    from richrep.evaluation.protocols.sgd_linear import SgdLinearProtocol

    if not lrs and not weight_decays:
        return protocol
    base = protocol.base if isinstance(protocol, LegacyTestSelection) else protocol
    if not isinstance(base, SgdLinearProtocol):
        raise RichrepError(
            f"{protocol.name} has no --lr and --weight-decay; rrl-linear, sparse-linear and swav-linear have."
        )
    changed = base.with_grid(lrs=lrs, weight_decays=weight_decays)
    told = protocol.with_base(changed) if isinstance(protocol, LegacyTestSelection) else changed
    return cast("Protocol", told)


def _say_heads_that_do_not_fit(backbones: list[Backbone], num_classes: int, wanted: bool) -> None:
    for backbone in backbones if wanted else ():
        if backbone.num_classes != num_classes:
            found = f"has {backbone.num_classes} classes" if backbone.num_classes else "is not in the file"
            console.say(f"{backbone.name}: own head not scored, it {found}; the data set has {num_classes}.")


def _say_where(records: list[Record], out: Path) -> None:
    console.say(f"{len(records)} records in {out}. See them again with: richrep results --out {out}")
