"""What is asked when a loaded model is timed: parts, kernels, batches, images, and whether its context holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from edgelib.errors import EdgelibError
from edgelib.models.generative import GenerativeModel
from edgelib.models.zero_shot import ClipModel, ZeroShotModel
from edgelib.study.machine import QUICK, Suite
from edgelib.study.timing.answering import Answering
from edgelib.study.timing.shown import Shown, shown


@dataclass(frozen=True)
class Asked:
    """What is timed. kernels: names in `KERNELS`, the one to compare with first; batches: of images or answers; suite:
    how often, and how many tokens are written."""

    model: ZeroShotModel | GenerativeModel
    kernels: tuple[str, ...]
    batches: tuple[int, ...]
    images: Shown
    suite: Suite

    @property
    def writes(self) -> bool:
        """Whether the model writes."""
        return isinstance(self.model, GenerativeModel)

    @cached_property
    def parts(self) -> dict[str, nn.ModuleList]:
        """The modules of each part that is timed apart, by its name: vision, text, decoder."""
        return {part: modules_of(self.model, part) for part in self._names}

    @property
    def _names(self) -> tuple[str, ...]:
        if isinstance(self.model, GenerativeModel):
            return ("vision", "decoder")
        return ("vision", "text") if isinstance(self.model, ClipModel) else ("vision",)


@dataclass(frozen=True)
class Case:
    """One entry of the store: kernels that take turns on one part, image size and batch; seconds: predicted."""

    what: str
    part: str
    kernels: tuple[str, ...]
    size: str
    batch: int
    seconds: float
    longest: Mapping[str, float]


def check(asked: Asked) -> None:
    """Raise EdgelibError for image sizes whose prompts are too long for the model, before anything is timed."""
    model = asked.model
    if not isinstance(model, GenerativeModel):
        return
    for size in asked.images.sizes:
        tokens = Answering(model, asked.images.batch(size, 1)).tokens + asked.suite.new_tokens
        if tokens > model.context:
            raise EdgelibError(
                f"an image of {size} and {asked.suite.new_tokens} new tokens make {tokens} tokens, and "
                f"{model.name} reads {model.context}; choose smaller images by --images"
            )


def usual_images(model: ZeroShotModel | GenerativeModel, suite: Suite, most: int) -> Shown:
    """Return drawn images of the sizes that a model is shown if nothing else is asked: what its towers take, or those
    among 448, 224, 112 and so on that its context holds, one of them in the quick suite and two in the full one."""
    if not isinstance(model, GenerativeModel):
        height, width = model.preprocess.size
        return shown(f"{height}x{width}", most)
    sides = [side for side in (448, 224, 112, 56, 28) if _fits(model, suite, side)]
    if not sides:
        raise EdgelibError(f"no image of 28 pixels and more fits into the {model.context} tokens of {model.name}")
    return shown(",".join(map(str, sides[: 1 if suite is QUICK else 2])), most)


def _fits(model: GenerativeModel, suite: Suite, side: int) -> bool:
    images = shown(str(side), 1).batch(f"{side}x{side}", 1)
    return Answering(model, images).tokens + suite.new_tokens <= model.context


def modules_of(model: ZeroShotModel | GenerativeModel, part: str) -> nn.ModuleList:
    """The modules of a part, for the bytes of its weights."""
    module = model.module
    if isinstance(model, GenerativeModel):
        head = module.get_output_embeddings()
        texts = [*model.family.text_parts(module), *([] if head is None else [head])]
        return nn.ModuleList(texts if part == "decoder" else _outside(module, texts))
    begins = {"vision": ("vision", "visual", "images"), "text": ("text",)}[part]
    own = [child for name, child in module.named_children() if name.startswith(begins)]
    return nn.ModuleList(own or [module])


def _outside(module: nn.Module, excluded: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """The largest modules that hold none of the excluded ones."""
    inside = set(module.modules())
    if module in excluded:
        return
    if not any(part in inside for part in excluded):
        yield module
        return
    for child in module.children():
        yield from _outside(child, excluded)
