"""No fine-tuning: networks that come fine-tuned, with the heads of their files."""

from __future__ import annotations

from collections.abc import Sequence

from richrep.backbones.backbone import Backbone
from richrep.data.split import Split
from richrep.errors import RichrepError
from richrep.evaluation.transfer.protocol import FinetuneProtocol
from richrep.training.finetune import FinetuneOptions, first_head
from richrep.training.head_init import AFRESH
from richrep.training.schedules import Schedule

AS_IS = FinetuneProtocol(
    name="as-is",
    lrs=(0.0,),
    weight_decays=(5e-4,),  # of the second stage after it
    options=FinetuneOptions(epochs=0, schedule=Schedule("constant"), head_init="from-checkpoint", view=None),
    refit=False,
    source="RRL, SEER at 384 pixels: networks that their publishers fine-tuned, weight decay 5e-4 for the head on all "
    "of them. Val may hold images that they were trained on",
)


def check_heads(members: Sequence[Backbone], split: Split, protocol: FinetuneProtocol) -> None:
    """Raises RichrepError where a protocol trains nothing and a member has no head of its own for the data set."""
    if protocol.options.epochs > 0:
        return
    for member in members:
        try:
            first_head([member], split, "from-checkpoint", seed=0)
        except RichrepError as error:
            said = str(error).removesuffix(AFRESH).rstrip()
            raise RichrepError(
                f"{said} Protocol {protocol.name} trains nothing: leave this network out, or choose another protocol."
            ) from None
