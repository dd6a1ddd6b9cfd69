"""What a record says about the backbones and the data a number came from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version

from richrep.backbones.backbone import Backbone
from richrep.data.split import Dataset, Split
from richrep.evaluation.record import BackboneFacts, DatasetFacts, SkippedImageFacts
from richrep.features.feature_set import FeatureSet


def backbone_facts(backbone: Backbone, name: str) -> BackboneFacts:
    """The facts of `backbone`, under the `name` it has in the table."""
    return BackboneFacts(
        address=backbone.address,
        name=name,
        family=backbone.family,
        architecture=backbone.architecture,
        feature_dim=backbone.feature_dim,
        parameters=backbone.parameters,
        sparsity=backbone.sparsity,
        sha256=backbone.sha256,
        licence=backbone.licence,
        preprocessing=backbone.preprocessing.describe(),
        load_report=backbone.load_report,
    )


def engine_facts(feature_sets: Iterable[FeatureSet]) -> dict[str, str]:
    """The engines that computed the features, and versions: {"engine": "openvino", "openvino": "2026.4.1"}.

    "openvino (cached)" are features that were there, of a version that is not known; "cache" those whose engine is not
    known, because an earlier release stored them.
    """
    names = sorted({name for feature_set in feature_sets for name in (feature_set.engine or "cache").split("+")})
    return {"engine": "+".join(names)} | {name: version(name) for name in names if name in ("openvino", "onnxruntime")}


def _skipped(feature_sets: Iterable[tuple[str, FeatureSet]]) -> tuple[SkippedImageFacts, ...]:
    return tuple(
        SkippedImageFacts(part=part, name=image.name, row=image.row, reason=image.reason)
        for part, feature_set in feature_sets
        for image in feature_set.skipped
    )


def dataset_facts(
    dataset: Dataset,
    *,
    trainval: Split,
    test: Split,
    features: Sequence[FeatureSet],
    sizes: Sequence[int],
    val: str,
) -> DatasetFacts:
    """The facts of the data used.

    Args:
        features: of trainval and, where test was read, of test, for the images that were skipped.
        sizes: images trained on, selected on and scored on.
        val: how val came about.
    """
    plain = plain_dataset_facts(dataset, trainval, test, sizes, val)
    return plain.model_copy(
        update={"skipped_images": _skipped(list(zip(("trainval", "test"), features, strict=False)))}
    )


def plain_dataset_facts(dataset: Dataset, trainval: Split, test: Split, sizes: Sequence[int], val: str) -> DatasetFacts:
    """The facts of the data used, where no image was skipped; arguments as of `dataset_facts`."""
    num_train, num_val, num_test = sizes
    notes = [f"{split.part}: {split.note}" for split in (dataset.train, test) if split.note]
    return DatasetFacts(
        address=dataset.address,
        name=dataset.name,
        num_classes=trainval.num_classes,
        num_train=num_train,
        num_val=num_val,
        num_test=num_test,
        fingerprint=f"{trainval.fingerprint[:32]}{test.fingerprint[:32]}",
        val=val,
        notes=tuple(notes),
    )
