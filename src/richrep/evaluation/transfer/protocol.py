"""A protocol of training on the target: what is tried, and how one of it is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any, Generic, Self, TypeAlias, TypeVar

from richrep.backbones.backbone import Backbone
from richrep.data.augment import RandomView
from richrep.features.views import have_small_inputs
from richrep.training.distill import DistillOptions
from richrep.training.finetune import FinetuneOptions

Options = TypeVar("Options", FinetuneOptions, DistillOptions)


@dataclass(frozen=True)
class TransferProtocol(Generic[Options]):
    """Learning rates and weight decays that are tried on val, and everything else of the training.

    With one cell nothing is chosen, so all of train and val is trained on. With several, each is trained on train; the
    one of highest val accuracy after its last epoch is trained again on train and val together, and that is scored.

    Attributes:
        lrs, weight_decays: every pair is a cell. lrs_of, weight_decays_of: by the name of the data set, in their place.
        views_of: random views by the name of the data set, in place of that of `options`.
        small_view: in place of that of `options` where every network's input is small, as CIFAR's 32 pixels; None keeps
            that of `options`.
        options: of every training; its optimizer's lr and weight_decay are those of the cell.
        val_fraction: of every class of train goes to val, when the data set stores none.
        refit: False keeps the chosen cell's network, trained on train alone.
        source: where the numbers are from.
    """

    name: str
    lrs: tuple[float, ...]
    weight_decays: tuple[float, ...]
    options: Options
    lrs_of: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    weight_decays_of: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    views_of: Mapping[str, RandomView] = field(default_factory=dict)
    small_view: RandomView | None = None
    val_fraction: float = 0.2
    refit: bool = True
    source: str = ""

    def for_inputs_of(self, backbones: Sequence[Backbone]) -> Self:
        """The protocol with the view that suits the inputs of these networks."""
        if self.small_view is None or not have_small_inputs(backbones):
            return self
        return replace(self, options=replace(self.options, view=self.small_view))

    @property
    def summary(self) -> str:
        """The numbers in one line, and where they are from."""
        options, source = self.options, self.source.split(" Differs:")[0]
        if options.epochs == 0:
            return f"nothing is trained, head by {options.head_init}; {source}"
        lrs = " or ".join(f"{lr:g}" for lr in self.lrs)
        decays = " or ".join(f"{decay:g}" for decay in self.weight_decays)
        return (
            f"{options.optimizer.name}, {options.epochs} epochs of batches of {options.batch_size}, "
            f"{options.schedule.kind} lr {lrs}, weight decay {decays}; {source}"
        )

    def deciding(self) -> dict[str, Any]:
        """What its result depends on, as plain data."""
        facts = asdict(self)
        del facts["source"], facts["options"]["checkpoint_every"]
        return facts

    def cells(self, dataset: str) -> list[Options]:
        """The options of every cell that is tried on `dataset`."""
        lrs = self.lrs_of.get(dataset, self.lrs)
        decays = self.weight_decays_of.get(dataset, self.weight_decays)
        options = replace(self.options, view=self.views_of.get(dataset, self.options.view))
        return [
            replace(options, optimizer=replace(options.optimizer, lr=lr, weight_decay=decay))
            for lr, decay in product(lrs, decays)
        ]


FinetuneProtocol: TypeAlias = TransferProtocol[FinetuneOptions]
DistillProtocol: TypeAlias = TransferProtocol[DistillOptions]
