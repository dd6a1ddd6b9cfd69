"""What the functions that a pickle calls would make, and which arguments they may get: nothing of unstated size."""

from __future__ import annotations

from richrep.backbones.files.numpy_stand_ins import is_plain
from richrep.backbones.files.pickle_limits import Limits
from richrep.backbones.files.pickle_names import is_inert
from richrep.backbones.files.pickle_tensors import make_parameter, make_tensor
from richrep.backbones.files.pickle_values import Bytes, Items, Made, Name, RefusedPickle, Tuple

# What each function takes. A number would let some make any size, an object of unknown size any number of copies.
_ARGUMENTS: dict[str, tuple[type, ...]] = {
    "collections.OrderedDict": (Items,),
    "collections.Counter": (Items,),
    "builtins.set": (Items,),
    "builtins.bytearray": (str, Bytes),
    "builtins.complex": (int, float),
    "_codecs.encode": (str,),
    "torch.Size": (Tuple,),
    "torch.device": (str, int),
    "argparse.Namespace": (),
    "numpy.dtype": (str, int),
    **{f"numpy.{core}.multiarray._reconstruct": (Name, Tuple, Bytes, str) for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": (Made, Bytes, str) for core in ("core", "_core")},
}
_KINDS = {"collections.OrderedDict": "dict", "collections.Counter": "dict", "builtins.set": "set"}


def call(maker: str, arguments: list[object], limits: Limits) -> object:
    """What a call gives; refused when it could give more than it takes."""
    if maker.startswith("torch._utils._rebuild_tensor"):
        return make_tensor(maker, limits, *arguments)
    if maker in ("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter"):
        return make_parameter(*arguments)
    taken = (object,) if is_inert(maker) else _ARGUMENTS.get(maker)
    if taken is None or not all(isinstance(argument, taken) for argument in arguments):
        raise RefusedPickle(f"calls {maker} in a way that could make values of any size")
    if maker == "numpy.dtype" and not is_plain(arguments[0]):
        raise RefusedPickle(f"holds a numpy array of type {arguments[0]!r}, expected numbers or texts")
    if maker == "_codecs.encode" and arguments[1:] not in (["latin1"], ["utf-8"], ["ascii"]):
        raise RefusedPickle(f"encodes a text as {arguments[1:]}, expected latin1")
    size = sum(map(limits.count_copy, arguments))
    if maker in _KINDS:
        target = Items(_KINDS[maker], size)
        _count_keys(target, arguments, limits, of_pairs=maker == "collections.OrderedDict")
        return target
    return Bytes(size) if maker in ("_codecs.encode", "builtins.bytearray") else Made(maker)


def _count_keys(target: Items, arguments: list[object], limits: Limits, *, of_pairs: bool) -> None:
    """Counts the keys that `target` takes from dictionaries, and from lists of keys or of pairs of key and value."""
    for argument in arguments:
        assert isinstance(argument, Items)
        target.odd_keys += argument.odd_keys
        for value in argument.items:
            key = value.items[0] if of_pairs and isinstance(value, Tuple | Items) and value.items else value
            limits.count_key(target, key)
