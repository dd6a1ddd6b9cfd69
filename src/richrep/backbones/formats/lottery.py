"""LTH-T: lottery tickets for transfer, and other files of torch.nn.utils.prune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from richrep.backbones.formats.format import Network, state_dict_in
from richrep.backbones.formats.pruned import (
    Tensors,
    as_mask,
    find_pruned,
    make_network,
    split_masks,
    without_leading_wrappers,
)


class LotteryFormat:
    """Files of VITA-Group/CV_LTH_Pre-training: `{state_dict, mask, init_weight, …}` with `X.weight_orig`.

    They hold two networks: the trained one, and the ticket: the weights before the training under the final mask.
    """

    name = "lottery"
    description = "LTH-T: lottery tickets for transfer; any file of torch.nn.utils.prune"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The trained network first; "ticket" is there when the file has the initial weights and a mask."""
        found = find_pruned(content, self.name)
        if found is None:
            return []
        weights, masks = split_masks(found.tensors)
        final = _mask_dictionary(content, weights) or masks
        initial = state_dict_in(content, "init_weight")
        trained = make_network(weights, masks or final, name="trained" if initial and final else "", notes=found.notes)
        if not (initial and final):
            return [trained]
        first, _ = split_masks(without_leading_wrappers(initial))
        ticket = {mask_name: as_mask(mask_name, mask, first) for mask_name, mask in final.items()}
        note = "ticket: the weights before the training under the final mask"
        return [trained, make_network(first, ticket, name="ticket", notes=(*found.notes, note))]


def _mask_dictionary(content: Mapping[str, Any], weights: Tensors) -> Tensors:
    """The masks beside the network, by weight; empty when there are none."""
    stored = without_leading_wrappers(state_dict_in(content, "mask") or {})
    names = {name: f"{name.removesuffix('.weight_mask')}.weight" for name in stored}
    return {names[name]: as_mask(names[name], mask, weights) for name, mask in stored.items()}
