"""A vision-language model that writes answers, of whatever family: from images and questions to its inputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.ground.hub import first_line
from edgelib.ground.separate import linears
from edgelib.models.families.base import Family, vision_inputs
from edgelib.models.families.writers import family_of
from edgelib.models.features import ImageFeatures, by_image
from edgelib.models.zero_shot import fingerprint_of, tokenizer_traits
from edgelib.observe.tallies import MODALITIES
from edgelib.observe.watch import Pass

if TYPE_CHECKING:
    from edgelib.data.questions import QuestionSet

_PIXELS = "pixel"  # how the names of all tensors begin that only a vision tower reads
_UNSHARED: WeakSet = WeakSet()  # processors of models whose features turned out not to come apart by image


@dataclass(frozen=True)
class Prompts:
    """Questions about images, made ready once for all models that share a processor.

    texts: tensors with one row per question, padded on the left, and what else the decoder needs. pixels: inputs of
    the distinct images, of which the vision tower reads its own; empty where the family takes the pixels with each
    question, among `texts`. image: int64 [n], which of the images each question is about. repeated: what the vision
    tower reads if every question brings its image, on the CPU, for features that do not come apart.
    """

    texts: dict[str, Tensor]
    pixels: dict[str, Tensor]
    image: Tensor
    repeated: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.texts["input_ids"])


@dataclass(frozen=True)
class GenerativeModel:
    """A network that decodes text about an image. `module` is never modified: derived models are copies.

    processor: the family's own, of transformers; it writes the prompt and prepares the pixels, as `family` says.
    """

    name: str
    module: nn.Module = field(repr=False)
    processor: Any = field(repr=False)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters."""
        return next(self.module.parameters()).dtype

    @property
    def tokenizer(self):
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @cached_property
    def family(self) -> Family:
        """What is special about models of this kind."""
        return family_of(self.module.config.model_type)

    @property
    def pads(self) -> bool:
        """Whether questions of several lengths may share a batch: not where positions do not follow the mask."""
        return self.family.pads

    @property
    def context(self) -> int:
        """The most tokens of prompt and answer together."""
        return self.module.config.get_text_config().max_position_embeddings

    @property
    def image_token(self) -> int | None:
        """Id of the token that stands for a piece of an image; None where images enter by cross-attention."""
        return self.family.image_token(self.module.config)

    @property
    def encodes_apart(self) -> bool:
        """Whether image features can be computed once and given to several questions, as far as is known."""
        return self.family.encode is not None and bool(vision_inputs(self.module)) and self.processor not in _UNSHARED

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every tensor, the architecture and what prepares its inputs: equal fingerprints, equal results."""
        return fingerprint_of(self.module, [type(self).__name__, self._input_traits()])

    def _input_traits(self) -> object:
        tokenizer = tokenizer_traits(self.tokenizer)
        pixels = {k: v for k, v in self.processor.image_processor.to_dict().items() if not k.startswith("_")}
        stop = self.module.generation_config.eos_token_id
        return [tokenizer, pixels, getattr(self.processor, "chat_template", None), stop]

    def with_module(self, module: nn.Module, name: str | None = None) -> GenerativeModel:
        """The same model around another network of the same shape."""
        return replace(self, module=module, name=name or self.name)

    def towers(self) -> dict[str, list[str]]:
        """Names of the Linears by tower: "decoder" (all that reads and writes text), "vision" (tower and connector) and
        "head", which makes the scores of the tokens.
        """
        layers = linears(self.module)
        texts, head = self._text_parts
        decoder = [n for n in layers if n.startswith(texts) and n != head]
        vision = [n for n in layers if n not in decoder and n != head]
        return {"decoder": decoder, "vision": vision, "head": [n for n in layers if n == head]}

    @cached_property
    def _text_parts(self) -> tuple[tuple[str, ...], str | None]:
        """How the names of everything begin that reads or writes text, and the name of the head."""
        names = {id(layer): n for n, layer in self.module.named_modules()}
        parts = self.family.text_parts(self.module)
        head = self.module.get_output_embeddings() or parts[0].get_output_embeddings()
        return tuple(f"{names[id(part)]}." for part in parts), names.get(id(head))

    def prompts(self, questions: Sequence[str], *, image: bool = True) -> list[str]:
        """What the model is given to read before it answers each question."""
        return self.family.prompt(self.processor, questions, image)

    def prepare(
        self,
        images: Sequence[Tensor] | Tensor | None,
        questions: Sequence[str],
        which: Tensor | None = None,
        answers: Sequence[str] | None = None,
    ) -> Prompts:
        """Make the inputs of n questions about images, uint8 [3, H, W] each; all on the model's device.

        which: int64 [n], the image of each question; None for image i with question i. images: None for questions
        without an image. answers: texts that the prompts already hold of their answers.
        Raises EdgelibError if the processor cannot take them.
        """
        which = torch.arange(len(questions)) if which is None else which
        if images is None:
            return Prompts(self._moved(self._processed(None, questions, answers)), {}, which)
        made = self._processed([images[i] for i in which.tolist()], questions, answers)
        pixels = {k: v for k, v in made.items() if k.startswith(_PIXELS)}
        texts = self._moved({k: v for k, v in made.items() if k not in pixels})
        if "mm_token_type_ids" in texts:  # rotary positions in three dimensions, which `generate` works out row by row
            texts["position_ids"] = self._positions(texts)
        if not self.encodes_apart:
            return Prompts(texts | self._moved(pixels), {}, which)
        repeated = pixels | {k: made[k] for k in vision_inputs(self.module) if k in made}
        texts = {k: v for k, v in texts.items() if k not in repeated}
        return Prompts(texts, self._moved(self._processed(list(images), [""] * len(images))), which, repeated)

    def _positions(self, texts: dict[str, Tensor]) -> Tensor:
        return self.module._prepare_position_ids_for_generation(texts["input_ids"], dict(texts))

    def inputs(self, images: Sequence[Tensor] | Tensor, questions: Sequence[str]) -> dict[str, Tensor]:
        """What `module.generate(**inputs)` takes for questions about images, as the processor alone makes it."""
        return self._moved(self._processed(list(images), questions))

    def _processed(
        self, images: list[Tensor] | None, questions: Sequence[str], answers: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        texts = self.prompts(questions, image=images is not None)
        try:
            return self.family.read(self.processor, images, texts, answers or [""] * len(texts))
        except Exception as error:  # processors raise many types, and say little about whose fault it is
            raise EdgelibError(
                f"the processor of {self.name} cannot prepare these images and questions ({first_line(error)}), such "
                f"as {texts[0]!r}"
            ) from error

    def _moved(self, made: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors on the model's device, floating ones in its dtype."""
        made = {k: v.to(self.device) for k, v in made.items()}
        return {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in made.items()}

    def features(self, pixels: dict[str, Tensor]) -> ImageFeatures | None:
        """Features of each image as the decoder reads them; the vision tower runs once.

        None, after a warning, where they do not come apart by image: every question then brings its image.
        """
        tokens = (pixels["input_ids"] == self.image_token).sum(dim=1)
        try:
            return by_image(self.family.encode(self.module, pixels), tokens.tolist())
        except EdgelibError as error:
            warnings.warn(
                f"{self.name} encodes an image again for each question about it, which takes longer: {error}",
                stacklevel=2,
            )
            _UNSHARED.add(self.processor)
            return None

    def decoder_inputs(self, prompts: Prompts, features: ImageFeatures | None) -> dict[str, Any]:
        """Keyword arguments of the network's forward or `generate` for prompts, whose images are encoded if there are
        features."""
        if features is None:
            return prompts.texts | self._moved(prompts.repeated)
        return prompts.texts | {"mm_encoder_outputs": {"image": features.of(prompts.image.tolist())}}

    @cached_property
    def vision_key(self) -> tuple:
        """Equal for two copies of a model that share every weight outside the decoder: they see the same features."""
        texts, head = self._text_parts
        own = {n: t for n, t in self.module.state_dict().items() if not n.startswith((*texts, f"{head}."))}
        return tuple((name, tensor.data_ptr()) for name, tensor in own.items())

    @property
    def end_tokens(self) -> list[int]:
        """Ids of the tokens that end an answer."""
        return self.family.end_tokens(self.module)

    @cached_property
    def yes_no_tokens(self) -> tuple[Tensor, Tensor]:
        """The first tokens of the spellings of yes and of no, int64 each; a token of both counts for neither."""
        first = [
            {ids[0] for text in _spellings(word) if (ids := self.tokenizer(text, add_special_tokens=False).input_ids)}
            for word in ("yes", "no")
        ]
        yes, no = (sorted(own - other) for own, other in (first, first[::-1]))
        return torch.tensor(yes, dtype=torch.int64), torch.tensor(no, dtype=torch.int64)

    def text_of(self, tokens: Tensor) -> list[str]:
        """Answers [n] from their tokens [n, T]."""
        return [text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    @torch.no_grad()  # inference mode would hide from a watcher whether a tensor was changed
    def probe(self) -> None:
        """Run the whole network once on a blank image, for those who watch how it is wired."""
        self._read(self.prepare(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), ["a"]))

    def _read(self, prompts: Prompts) -> None:
        features = self.features(prompts.pixels) if prompts.pixels else None
        self.module.generate(**self.decoder_inputs(prompts, features), max_new_tokens=1)

    def calibration_passes(self, data: QuestionSet, batch_size: int = 32) -> Iterator[Pass]:
        """Prompts with their reference answers, those of one length and image size together, so that none is padded.

        Questions whose image the set does not show are asked without one.
        """
        for shown, positions, images in data.calibration_batches(batch_size):
            rows = data.rows.iloc[positions]
            made = self.prepare(images if shown else None, list(rows["question"]), None, data.references(positions))
            lengths = made.texts["attention_mask"].sum(dim=1).cpu()
            for length in lengths.unique():
                own = (lengths == length).nonzero()[:, 0]
                chosen = [images[i] for i in own] if shown else None
                part = [list(rows["question"].iloc[own]), None, data.references(positions[own])]
                prompts = self.prepare(chosen, *part)
                yield Pass(partial(self._read, prompts), positions[own], self._modality(prompts))

    def _modality(self, prompts: Prompts) -> Tensor | str:
        """Which tokens come from an image."""
        if self.image_token is None:
            return "text"
        image = prompts.texts["input_ids"] == self.image_token
        return torch.where(image, MODALITIES.index("image"), MODALITIES.index("text"))


def _spellings(word: str) -> tuple[str, ...]:
    return word, word.capitalize(), f" {word}", f" {word.capitalize()}"
