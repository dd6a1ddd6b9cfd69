"""Our own distillation: short, with the learning rate chosen on val."""

from __future__ import annotations

from richrep.data.augment import RandomView
from richrep.evaluation.transfer.protocol import DistillProtocol
from richrep.training.distill import DistillOptions
from richrep.training.optimizers import OptimizerOptions
from richrep.training.parameter_groups import GroupOptions
from richrep.training.schedules import Schedule

_SMALL_VIEW = RandomView(scale=(0.8, 1.0))  # as RRL's fine-tuning on these

DEFAULT = DistillProtocol(
    name="default",
    lrs=(0.03, 0.1),
    weight_decays=(1e-4,),
    views_of={"cifar10": _SMALL_VIEW, "cifar100": _SMALL_VIEW},
    options=DistillOptions(
        epochs=60,
        batch_size=64,
        optimizer=OptimizerOptions("sgd", momentum=0.9, nesterov=True),
        schedule=Schedule("cosine", warmup_epochs=1),
        groups=GroupOptions(decay_norms=False, decay_biases=False),
        num_views=10,
        temperature=4.0,
    ),
    source="ours: a fifth of the epochs of rrl-distill with a cosine, ten cached views; temperature 4 as is common "
    "where teachers fit their training images",
)
