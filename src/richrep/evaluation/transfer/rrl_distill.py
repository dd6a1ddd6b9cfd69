"""Distillation of rich representations (RRL, DISTILL): 270 epochs of SGD, steps at 90 and 180; a reconstruction."""

from __future__ import annotations

from richrep.data.augment import RandomView
from richrep.evaluation.transfer.protocol import DistillProtocol
from richrep.training.distill import DistillOptions
from richrep.training.optimizers import OptimizerOptions
from richrep.training.schedules import Schedule

RRL_DISTILL = DistillProtocol(
    name="rrl-distill",
    lrs=(0.1,),
    weight_decays=(1e-4,),  # on all parameters, as in RRL's pretraining
    options=DistillOptions(
        epochs=270,  # of the file name checkpoint270
        batch_size=256,
        optimizer=OptimizerOptions("sgd", momentum=0.9, nesterov=False),
        schedule=Schedule("step", milestones=(90, 180), gamma=0.1),
        view=RandomView(scale=(0.08, 1.0)),
        num_views=0,
        loss=None,  # KL where a teacher has a head
        temperature=1.0,
    ),
    source="a reconstruction: RRL publishes the distilled network and no code. Epochs from its file name, optimizer of "
    "RRL's pretraining (https://github.com/TjuJianyu/RRL) with its steps three times as far apart; loss and "
    "temperature are not stated",
)
