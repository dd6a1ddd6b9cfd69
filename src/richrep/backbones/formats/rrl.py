"""Rich representations (RRL): one network or several side by side, under a linear layer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from richrep.backbones.formats.container import read_container
from richrep.backbones.formats.format import Network, set_aside_note, split_off, under
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]

_IMAGENET = Preprocessing(Geometry(size_px=(224, 224), resize_px=256))
_CIFAR = Preprocessing(
    Geometry(size_px=(32, 32), resize_px=36, interpolation="bicubic"),
    (0.4914, 0.4822, 0.4465),
    (0.2023, 0.1994, 0.2010),
)
_BATCHNORM_EPS = 1e-5
_NETWORK = re.compile(r"(?:model\d+\.)+")  # several levels where a network is itself made of several
_HEAD = re.compile(r"classifier\.(?:linear\.)?(weight|bias)$")
_HEAD_BATCHNORM = "classifier.bn."


class RrlFormat:
    """Files of TjuJianyu/RRL and of time-CAT's fine-tuning: `model0.*`, `model1.*`, …, and `classifier.linear.*`.

    One network gets torchvision's names and the head `fc`. Several are one backbone: `model0.*`, `model1.*`, … in the
    order of their features, and the head `fc` on all of them.
    """

    name = "rrl"
    description = "rich representations: ResNets, widened, or several side by side under one head"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The network, or all networks as one. Raises CheckpointError for the head of a linear probe alone."""
        tensors, notes = read_container(content, "state_dict")
        _refuse_a_head_alone(tensors)
        networks, beside = _split(tensors)
        if not networks:
            return []
        head, facts = _read_head(beside)
        if len(networks) == 1:
            trunk = networks[0]
        else:
            trunk = {f"model{i}.{name}": tensor for i, each in enumerate(networks) for name, tensor in each.items()}
            facts = (f"{len(networks)} networks side by side, one backbone", *facts)
        preprocessing = _CIFAR if _is_for_small_images(networks[0]) else _IMAGENET
        return [Network(trunk | head, notes=(*notes, *facts), preprocessing=preprocessing)]


def _refuse_a_head_alone(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises CheckpointError for a linear probe: its files hold `linear` and `bn`, and no network."""
    weight = tensors.get("linear.weight")
    if weight is not None and weight.ndim == 2 and all(name.startswith(("linear.", "bn.")) for name in tensors):
        classes, width = weight.shape
        raise CheckpointError(
            f"it holds only a head (a linear layer of {width} features and {classes} classes, of a linear probe) and "
            "no network. Give the checkpoint of the network that the probe was trained on."
        )


def _split(tensors: Tensors) -> tuple[list[Tensors], Tensors]:
    """(the networks in the order of their features, what lies beside them); no networks in a file of another format."""
    prefixes = {match[0] for name in tensors if (match := _NETWORK.match(name))}
    if prefixes:
        ordered = sorted(prefixes, key=_numbers)
        _check_complete([_numbers(prefix) for prefix in ordered])
        beside = {name: tensor for name, tensor in tensors.items() if not name.startswith(tuple(ordered))}
        return [under(tensors, prefix) for prefix in ordered], beside
    if _is_cifar_resnet(network := under(tensors, "backbone.")):
        return [network], split_off(tensors, r"backbone\.")[0]
    network, beside = split_off(tensors, r"classifier\.")
    if "conv1.weight" in network and "classifier.linear.weight" in beside:
        return [network], beside
    return [], {}


def _numbers(prefix: str) -> tuple[int, ...]:
    """ "model2.model0." -> (2, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", prefix))


def _check_complete(numbers: Sequence[tuple[int, ...]]) -> None:
    """Raises CheckpointError when a network is missing between others, or lies both beside and within another."""
    starts = {each[:depth] for each in numbers for depth in range(1, len(each) + 1)}
    before = {(*start[:-1], start[-1] - 1) for start in starts if start[-1] > 0}
    within = {each[:depth] for each in numbers for depth in range(1, len(each))}
    if wrong := sorted((before - starts) | (within & set(numbers))):
        listed = ", ".join(".".join(f"model{number}" for number in each) for each in wrong)
        raise CheckpointError(
            f"the names of its networks do not count up from model0; look at {listed}. "
            "Save the state_dict() of the whole model again."
        )


def _read_head(beside: Tensors) -> tuple[Tensors, tuple[str, ...]]:
    """The head as `fc`, and notes; no head when several linear layers compete to be it, as in distillation."""
    head = {match[1]: tensor for name, tensor in beside.items() if (match := _HEAD.match(name))}
    batchnorm = under(beside, _HEAD_BATCHNORM)
    others, _ = split_off(beside, _HEAD.pattern, re.escape(_HEAD_BATCHNORM))
    if "weight" not in head or any(name.endswith("weight") and tensor.ndim == 2 for name, tensor in others.items()):
        return {}, set_aside_note("what is not the network, heads included,", beside)
    notes = set_aside_note("what is neither network nor head", others)
    if batchnorm:
        head = _fold_batchnorm(head, batchnorm)
        notes = ("the head's BatchNorm folded into its linear layer, in float64", *notes)
    return {f"fc.{name}": tensor for name, tensor in head.items()}, notes


def _fold_batchnorm(head: Tensors, batchnorm: Tensors) -> Tensors:
    """The linear layer W, b that does both: with s = γ / √(σ² + ε), W' = W diag(s) and b' = b + W (β - s μ)."""
    wanted = ("weight", "bias", "running_mean", "running_var")
    shapes = {name: tuple(batchnorm[name].shape) if name in batchnorm else "missing" for name in wanted}
    weight = head["weight"]
    if "bias" not in head or weight.ndim != 2 or set(shapes.values()) != {(weight.shape[1],)}:
        raise CheckpointError(
            f"the head's BatchNorm does not fit its linear layer of shape {tuple(weight.shape)}, bias "
            f"{'there' if 'bias' in head else 'missing'}: {', '.join(f'{n} {s}' for n, s in shapes.items())}. "
            "Save the state_dict() of the whole model again."
        )
    gamma, beta, mean, variance = (batchnorm[name].double() for name in wanted)
    scale = gamma / torch.sqrt(variance + _BATCHNORM_EPS)
    folded = {
        "weight": weight.double() * scale,
        "bias": head["bias"].double() + weight.double() @ (beta - scale * mean),
    }
    return {name: tensor.to(weight.dtype) for name, tensor in folded.items()}


def _is_for_small_images(network: Mapping[str, torch.Tensor]) -> bool:
    """Whether the first convolution is one for 32 pixels: 3x3, not 7x7."""
    stem = network.get("conv1.weight")
    return stem is not None and tuple(stem.shape[1:]) == (3, 3, 3)


def _is_cifar_resnet(network: Mapping[str, torch.Tensor]) -> bool:
    return _is_for_small_images(network) and "layer2.0.shortcut.0.weight" in network
