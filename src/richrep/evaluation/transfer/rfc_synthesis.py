"""The synthesis phase of rich feature construction (RFC): the teachers' hard labels, heads averaged afterwards."""

from __future__ import annotations

from richrep.evaluation.transfer.protocol import DistillProtocol
from richrep.training.distill import DistillOptions
from richrep.training.optimizers import OptimizerOptions
from richrep.training.schedules import Schedule

RFC_SYNTHESIS = DistillProtocol(
    name="rfc-synthesis",
    lrs=(0.001,),
    weight_decays=(1e-6,),
    options=DistillOptions(
        epochs=20,
        batch_size=32,
        optimizer=OptimizerOptions("sgd", momentum=0.9, nesterov=False),
        schedule=Schedule("constant"),
        view=None,
        num_views=1,
        loss="hard",
        halves=True,
        heads="average",
    ),
    source="RFC (Zhang, Lopez-Paz, Bottou, 2022, https://arxiv.org/abs/2203.15516), its CAMELYON17 settings",
)
