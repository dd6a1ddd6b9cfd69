"""Fine-tuning as in rich representations (RRL): cosine per epoch, 100 epochs, no warm-up."""

from __future__ import annotations

from richrep.data.augment import RandomView
from richrep.evaluation.transfer.protocol import FinetuneProtocol
from richrep.training.finetune import FinetuneOptions
from richrep.training.optimizers import OptimizerOptions
from richrep.training.parameter_groups import GroupOptions
from richrep.training.schedules import Schedule

_CIFAR_DECAYS = (0.0, 1e-5, 1e-4, 5e-4)
_CIFAR_VIEW = RandomView(scale=(0.8, 1.0))

RRL_FINETUNE = FinetuneProtocol(
    name="rrl-finetune",
    lrs=(0.01,),  # the scripts try 0.005, 0.01 and 0.05 and note that 0.01 is nearly always good enough
    weight_decays=(1e-6, 1e-5, 1e-4),  # of iNaturalist
    weight_decays_of={"cifar10": _CIFAR_DECAYS, "cifar100": _CIFAR_DECAYS},
    views_of={"cifar10": _CIFAR_VIEW, "cifar100": _CIFAR_VIEW},
    options=FinetuneOptions(
        epochs=100,
        batch_size=256,  # 8 processes of 32
        optimizer=OptimizerOptions("sgd", momentum=0.9, nesterov=False),
        schedule=Schedule("cosine", final_lr=1e-7, per_epoch=True),
        groups=GroupOptions(decay_norms=False, decay_biases=True),  # --wd_skip_bn
        head_init="default",
        view=RandomView(scale=(0.08, 1.0)),  # of ImageNet and iNaturalist
    ),
    source="RRL, fine-tuning scripts, https://github.com/TjuJianyu/RRL. Differs: weight decay is chosen on val, not on "
    "test; norms are found by their type, so those of shortcuts do not decay either; images are normalised as the "
    "backbone was pretrained.",
)
