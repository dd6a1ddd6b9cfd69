"""Full fine-tuning as in the study of sparse transfer: 150 epochs, steps at 51 and 101."""

from __future__ import annotations

from richrep.evaluation.transfer.protocol import FinetuneProtocol
from richrep.training.finetune import FinetuneOptions
from richrep.training.optimizers import OptimizerOptions
from richrep.training.schedules import Schedule

SPARSE_FINETUNE = FinetuneProtocol(
    name="sparse-finetune",
    lrs=(0.001,),
    lrs_of={"fgvc_aircraft": (0.01,), "aircraft": (0.01,), "stanford_cars": (0.01,), "cars": (0.01,)},
    weight_decays=(5e-4,),  # on all parameters
    options=FinetuneOptions(
        epochs=150,
        batch_size=64,
        optimizer=OptimizerOptions("sgd", momentum=0.9, nesterov=False),
        schedule=Schedule("step", milestones=(51, 101), gamma=0.1),
        head_init="default",
    ),
    source="How Well Do Sparse ImageNet Models Transfer? (Iofinova et al., 2022), main.py. Differs: the last epoch is "
    "reported and not the one best on test; masks are kept whatever the checkpoint's form; images are normalised as "
    "the backbone was pretrained.",
)
