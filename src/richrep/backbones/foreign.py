"""Names of what lies beside a network in a file and takes no part in its features.

Only what is listed here is ever set aside. A tensor of an unknown name may belong to the forward pass, as register
tokens, prompts and adapters do, and a network without them would give other features.
"""

from __future__ import annotations

import re

# Heads, and buffers of losses, metrics and normalisations of the input
_BESIDE = re.compile(
    r"(\w*_)?(head|heads|proj|projector|projection|predictor|prediction|prototypes?|criterion|loss\w*|queue\w*|probe"
    r"|classifier|fc\d*|linear\w*|neck|metrics?|acc|accuracy|temperature|logit_scale|center|optimi[sz]er|memory_bank"
    r"|normali[sz]er?|data_preprocessor|n_averaged|(global_)?step|epoch|num_updates|counter)(_\w+)?",
    re.IGNORECASE,
)
# The half of masked pretraining that no feature passes
_DECODER = re.compile(r"(\w*_)?(decoder\w*|mask_token)(_\w+)?", re.IGNORECASE)
# Within a name of `_BESIDE`, words of layers that images pass on their way: `fc_norm`, `input_proj`, `linear_embed`
_ON_THE_WAY = re.compile(
    r"norm|embed\w*|tokens?|patch|stem|adapters?|prompts?|lora|pos|pre|in|input|conv|pool\w*", re.IGNORECASE
)
# Second networks: averages over the training, teachers
_COPY = re.compile(r"(\w*_)?(ema|teacher|momentum|swa|target)(_\w+)?", re.IGNORECASE)


def is_beside(part: str) -> bool:
    """Whether a module or buffer called `part` takes no part in the features of the network beside it."""
    if _DECODER.fullmatch(part):
        return True
    return bool(_BESIDE.fullmatch(part)) and not any(map(_ON_THE_WAY.fullmatch, part.split("_")))


def is_copy(part: str) -> bool:
    """Whether `part` is what projects call a second network beside the first: an average of it, its teacher."""
    return _COPY.fullmatch(part) is not None
