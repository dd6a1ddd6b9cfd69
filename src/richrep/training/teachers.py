"""Teachers of a student: what each is matched by, and what they say of images, computed once or in every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from richrep.backbones.backbone import Backbone
from richrep.data.augment import RandomView
from richrep.data.preprocessing import Preprocessing
from richrep.data.split import Split
from richrep.errors import RichrepError, unknown_name_message
from richrep.features.cache import FeatureCache
from richrep.features.extract import extract_layers
from richrep.features.forward import Network, made_ready
from richrep.features.manifest import Layer, Request
from richrep.features.progress import ProgressCallback
from richrep.features.views import NumberedView

# What a student's head matches, by the name of its loss (losses.py has them).
MATCHED: dict[str, Layer] = {"kl": "logits", "hard": "logits", "cosine": "features", "mse": "features"}
_WITH_HEAD, _WITHOUT_HEAD = "kl", "cosine"


@dataclass(frozen=True)
class Match:
    """A teacher, and the loss by which a head of the student is held against it.

    Attributes:
        loss: a key of MATCHED.
    """

    teacher: Backbone
    loss: str

    @property
    def request(self) -> Request:
        """What is computed of the teacher: its logits (B, K), or its features (B, D)."""
        return Request(self.teacher, MATCHED[self.loss])

    @property
    def dim(self) -> int:
        """Width of it: K of the teacher's own head, or D."""
        return self.request.dim

    def describe(self) -> str:
        """One line for people."""
        if self.request.layer == "logits":
            return f"{self.teacher.name}: {self.loss} on the {self.dim} logits of its own head"
        why = "" if self.teacher.head is not None else ", it has no head"
        return f"{self.teacher.name}: {self.loss} on its {self.dim} features{why}"


def choose_matches(teachers: Sequence[Backbone], loss: str | None) -> tuple[Match, ...]:
    """How every teacher is matched: by `loss`; where that needs a head and there is none, by "cosine" on features.

    Args:
        loss: a key of MATCHED; None is "kl" where a teacher has a head.

    Raises:
        RichrepError: an unknown loss, or one that needs heads where no teacher has one.
    """
    if loss is not None and loss not in MATCHED:
        raise RichrepError(unknown_name_message("loss", loss, MATCHED))
    if teachers and loss in ("kl", "hard") and all(teacher.head is None for teacher in teachers):
        raise RichrepError(
            f"The loss {loss!r} matches the logits of teachers, but none of the {len(teachers)} teachers has a head of "
            "its own. Match their features: --loss cosine or --loss mse."
        )
    wanted = loss or _WITH_HEAD
    needs_head = MATCHED[wanted] == "logits"
    return tuple(
        Match(teacher, _WITHOUT_HEAD if needs_head and teacher.head is None else wanted) for teacher in teachers
    )


def teacher_outputs(
    matches: Sequence[Match],
    split: Split,
    view: RandomView | None,
    *,
    num_views: int,
    seed: int,
    cache: FeatureCache | None,
    device: str | None = None,
    progress: ProgressCallback | None = None,
) -> list[torch.Tensor]:
    """What the teachers say of V views of every image, in float32 arithmetic: `extra` of ImageBatches.

    One pass over the images serves all teachers and views. View v is that of epoch v of `ImageBatches` with this seed.

    Args:
        view: None is the deterministic view, of which there is one.
        cache: where they are kept, beside the features of other commands; None keeps them in memory.

    Returns:
        V x M tensors (N, K) or (N, D), those of all teachers on the first view first.
    """
    views = [None] if view is None else [NumberedView(view, seed, number) for number in range(num_views)]
    requests = [Request(match.teacher, match.request.layer, one) for one in views for match in matches]
    if not requests:
        return []
    found = extract_layers(requests, split, cache=cache, device=device, progress=progress)
    return [torch.as_tensor(one.features[:]) for one in found]


class TeachersInStep:
    """Teachers that run on the images of every batch, frozen: for views that never come again.

    No module, so that their weights are neither trained nor kept in the state of a training.

    Args:
        student: preprocessing of the batch's own images.
    """

    def __init__(self, matches: Sequence[Match], student: Preprocessing) -> None:
        self.teachers = [match.teacher for match in matches]
        self.networks = [Network(match.teacher, (match.request.layer,)) for match in matches]
        self.also = tuple(dict.fromkeys(t.preprocessing for t in self.teachers if t.preprocessing != student))
        places = {student: 0} | {preprocessing: place for place, preprocessing in enumerate(self.also, 1)}
        self.places = [places[teacher.preprocessing] for teacher in self.teachers]

    @contextmanager
    def ready(self, device: torch.device) -> Iterator[None]:
        """Inside, the teachers are on the device and in evaluation mode; afterwards as they were."""
        with made_ready(self.teachers, device):
            yield

    @torch.no_grad()
    def outputs(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Images (B, 3, H, W) through the student's preprocessing, then through each of `also` -> (B, K) a teacher."""
        return [network(images[place])[0] for network, place in zip(self.networks, self.places, strict=True)]
