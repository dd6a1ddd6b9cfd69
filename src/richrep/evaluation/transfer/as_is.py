"""No fine-tuning: networks that come fine-tuned, with the heads of their files."""

from __future__ import annotations

from richrep.evaluation.transfer.protocol import FinetuneProtocol
from richrep.training.finetune import FinetuneOptions
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
