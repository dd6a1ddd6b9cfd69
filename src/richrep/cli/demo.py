"""`richrep demo`: the library's central claim on real images, offline, in under a minute."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Annotated

import typer

from richrep.cli import console, options

if TYPE_CHECKING:
    from richrep.backbones.backbone import Backbone
    from richrep.data.split import Dataset
    from richrep.evaluation.record import Record

NUM_SHORT, SHORT_STEPS = 4, 200
LONG_STEPS = NUM_SHORT * SHORT_STEPS


def demo(
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", min=1, help="Runs, each with seeds of its own.")
    ] = 3,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", callback=options.check_seed, help="Seed of the first run.")
    ] = 0,
    out: options.Out = options.DEFAULT_OUT,
    json: options.Json = None,
) -> None:
    """Four networks trained for 200 steps, together, against one trained for 800: which transfers better?

    Pretrains small convolutional networks on the digits 0-4 of scikit-learn's bundled images, transfers them to the
    digits 5-9 with the tuned linear probe, and says what was seen. Offline, under a minute on two cores.

    Example: richrep demo --repeats 5
    """
    from rich.table import Table

    from richrep.evaluation.record_store import save_record
    from richrep.reports.render import render_json, render_rich
    from richrep.reports.tables import make_probe_table

    console.check_writable(json)
    console.check_folder(out, "--out")
    source, target = digits_pair()
    console.say(
        f"Pretraining on digits 0-4 ({len(source.train)} images), transfer to digits 5-9 "
        f"({len(target.train)} train and val, {len(target.test)} test images)."
    )
    runs: list[tuple[Record, Record]] = []
    measured: list[Record] = []
    for repeat in range(repeats):
        records = run_once(source, target, seed=seed + repeat)
        for record in records:
            save_record(record, out)
        measured += records
        runs.append((records[-2], records[-1]))
        console.say(
            f"run {repeat + 1} of {repeats}: {_accuracy(records[-2]):.3f} together, {_accuracy(records[-1]):.3f} one"
        )
    if json != "-":
        screen = console.stdout()
        screen.print(f"The main job, first run: each network alone, the {NUM_SHORT} short ones together, the long one.")
        screen.print(render_rich(make_probe_table(measured[: len(measured) // repeats]), width=screen.width))
        screen.print()
        screen.print(f"Together against alone, all runs ({LONG_STEPS} training steps on either side):")
        table = Table("test accuracy on digits 5-9", "mean ± std", *(f"run {i + 1}" for i in range(repeats)), box=None)
        all_together, all_alone = [_accuracy(a) for a, _ in runs], [_accuracy(b) for _, b in runs]
        for name, values in (
            (f"{NUM_SHORT} networks x {SHORT_STEPS} steps, concatenated", all_together),
            (f"1 network x {LONG_STEPS} steps", all_alone),
        ):
            table.add_row(name, _mean_and_std(values), *(f"{value:.3f}" for value in values))
        screen.print(table)
        screen.print()
        screen.print(what_was_seen(all_together, all_alone))
    console.say(f"{len(measured)} records in {out}. See them again with: richrep results --out {out}")
    if json is not None:
        console.write_text(json, render_json(measured))


def digits_pair() -> tuple[Dataset, Dataset]:
    """The digits 0-4 to pretrain on, and the digits 5-9 to transfer to."""
    from dataclasses import replace

    from richrep.data.datasets import load_dataset

    digits = load_dataset("digits")
    halves = []
    for name, classes in (("digits-0-4", range(5)), ("digits-5-9", range(5, 10))):
        train, test = digits.train.select_classes(classes), digits.test.select_classes(classes)
        halves.append(
            replace(
                digits,
                address=name,
                name=name,
                train=replace(train, dataset=name),
                test=replace(test, dataset=name),
            )
        )
    return halves[0], halves[1]


def run_once(source: Dataset, target: Dataset, *, seed: int) -> list[Record]:
    """Records of the short networks alone, of their concatenation, and of the long one, in this order."""
    from dataclasses import replace

    from richrep.backbones.small_cnn import make_small_cnn
    from richrep.evaluation.probe import probe
    from richrep.training.pretrain import pretrain_supervised

    def train(name: str, network_seed: int, num_steps: int) -> Backbone:
        untrained = make_small_cnn(source.train.num_classes, seed=network_seed)
        trained = pretrain_supervised(untrained, source.train, num_steps=num_steps, seed=network_seed)
        return replace(trained, name=name)

    first = 100 * seed  # no two networks of the demonstration share a seed
    short = [train(f"short{i + 1}", first + i, SHORT_STEPS) for i in range(NUM_SHORT)]
    long = train("long", first + NUM_SHORT, LONG_STEPS)
    return [*probe(short, target, seed=seed, cache=None), *probe([long], target, seed=seed, cache=None)]


def what_was_seen(together: list[float], alone: list[float]) -> str:
    """One sentence on whether the concatenation beat the long network, from the test accuracies of each run."""
    gains = [a - b for a, b in zip(together, alone, strict=True)]
    wins, mean = sum(gain > 0 for gain in gains), statistics.mean(gains)
    training = f"{NUM_SHORT} networks of {SHORT_STEPS} steps, concatenated, and one of {LONG_STEPS} steps"
    if wins == len(gains):
        verdict = (
            f"split, the same training effort transferred better in every run, by {100 * mean:.1f} points on average"
        )
    elif mean > 0:
        verdict = (
            f"splitting the effort was better in {wins} of {len(gains)} runs, by {100 * mean:.1f} points on average"
        )
    else:
        verdict = (
            f"the claim does not hold here: splitting the effort was better in {wins} of {len(gains)} runs only, "
            f"{100 * mean:+.1f} points on average"
        )
    return f"Seen with {training}: {verdict}."


def _accuracy(record: Record) -> float:
    return record.score("test", "accuracy") or 0.0


def _mean_and_std(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"
