"""Our own fine-tuning: short, with the learning rate chosen on val."""

from __future__ import annotations

from richrep.data.augment import RandomView
from richrep.evaluation.transfer.protocol import FinetuneProtocol
from richrep.training.finetune import FinetuneOptions
from richrep.training.optimizers import OptimizerOptions
from richrep.training.parameter_groups import GroupOptions
from richrep.training.schedules import Schedule

DEFAULT = FinetuneProtocol(
    name="default",
    lrs=(0.003, 0.01, 0.03),
    weight_decays=(1e-4,),
    small_view=RandomView(scale=(0.8, 1.0)),  # as RRL's on CIFAR
    options=FinetuneOptions(
        epochs=20,
        batch_size=64,
        optimizer=OptimizerOptions("sgd", momentum=0.9, nesterov=True),
        schedule=Schedule("cosine", warmup_epochs=1),
        groups=GroupOptions(decay_norms=False, decay_biases=False),
        head_init="normal",
        clip_norm=None,
    ),
    source="ours: the rates around RRL's and the sparse study's, warmed up for an epoch because the head is new",
)
