"""A vision-language model that writes answers, of whatever family: from images and questions to its inputs."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.ground.hub import first_line
from edgelib.models.zero_shot import fingerprint_of
from edgelib.observe.tallies import MODALITIES
from edgelib.observe.watch import Pass

if TYPE_CHECKING:
    from edgelib.data.questions import QuestionSet

_PIXELS = "pixel"  # how the names of all tensors begin that only a vision tower reads
_PLAIN = {"last_hidden_state", "pooler_output", "hidden_states", "attentions"}  # of the output of a vision tower


@dataclass(frozen=True)
class Prompts:
    """Questions about images, made ready once for all models that share a processor.

    texts: tensors with one row per question, padded on the left, and what else the decoder needs. pixels: what the
    vision tower reads of the distinct images; empty where the family takes the pixels with each question, among
    `texts`. image: int64 [n], which of the images each question is about.
    """

    texts: dict[str, Tensor]
    pixels: dict[str, Tensor]
    image: Tensor

    def __len__(self) -> int:
        return len(self.texts["input_ids"])


@dataclass(frozen=True)
class GenerativeModel:
    """A network that decodes text about an image. `module` is never modified: derived models are copies.

    processor: the family's own, of transformers; it writes the prompt by its chat template and prepares the pixels.
    """

    name: str
    module: nn.Module = field(repr=False)
    processor: object = field(repr=False)

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

    @property
    def chats(self) -> bool:
        """Whether prompts go through a chat template; BLIP reads the bare question."""
        return getattr(self.processor, "chat_template", None) is not None

    @property
    def pads(self) -> bool:
        """Whether questions of several lengths may share a batch: not where positions do not follow the mask."""
        return self.chats

    @property
    def context(self) -> int:
        """The most tokens of prompt and answer together."""
        return self.module.config.get_text_config().max_position_embeddings

    @property
    def image_token(self) -> int | None:
        """Id of the token that stands for a piece of an image; None where images enter by cross-attention."""
        config = self.module.config
        return getattr(config, "image_token_id", getattr(config, "image_token_index", None))

    @cached_property
    def encodes_apart(self) -> bool:
        """Whether image features can be computed once and given to several questions."""
        known = "mm_encoder_outputs" in inspect.signature(self.module.forward).parameters
        return known and hasattr(self.module.base_model, "get_image_features")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every tensor, the architecture and what prepares its inputs: equal fingerprints, equal results."""
        return fingerprint_of(self.module, [type(self).__name__, self._input_traits()])

    def _input_traits(self) -> object:
        backend = json.loads(self.tokenizer.backend_tokenizer.to_str())
        tokenizer = {k: v for k, v in backend.items() if k not in ("padding", "truncation")}
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
        linears = [n for n, layer in self.module.named_modules() if isinstance(layer, nn.Linear)]
        texts, head = self._text_parts
        decoder = [n for n in linears if n.startswith(texts) and n != head]
        vision = [n for n in linears if n not in decoder and n != head]
        return {"decoder": decoder, "vision": vision, "head": [n for n in linears if n == head]}

    @cached_property
    def _text_parts(self) -> tuple[tuple[str, ...], str | None]:
        """How the names of everything begin that reads or writes text, and the name of the head."""
        names = {id(layer): n for n, layer in self.module.named_modules()}
        parts = [self.module.get_decoder(), getattr(self.module, "text_encoder", None)]
        head = self.module.get_output_embeddings() or parts[0].get_output_embeddings()
        return tuple(f"{names[id(part)]}." for part in parts if part is not None), names.get(id(head))

    def prompts(
        self, questions: Sequence[str], answers: Sequence[str] | None = None, *, image: bool = True
    ) -> list[str]:
        """What the model is given to read for each question, its answer appended if there is one."""
        answers = [""] * len(questions) if answers is None else answers
        if not self.chats:
            return [f"{q} {a}".strip() for q, a in zip(questions, answers, strict=True)]
        shown = [{"type": "image"}] if image else []
        chats = [[{"role": "user", "content": [*shown, {"type": "text", "text": q}]}] for q in questions]
        texts = self.processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        return [text + answer for text, answer in zip(texts, answers, strict=True)]

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
            return Prompts(self._processed(None, self.prompts(questions, answers, image=False)), {}, which)
        texts = self._processed([images[i] for i in which.tolist()], self.prompts(questions, answers))
        if "mm_token_type_ids" in texts:  # rotary positions in three dimensions, which `generate` works out row by row
            texts["position_ids"] = self._positions(texts)
        if not self.encodes_apart:
            return Prompts(texts, {}, which)
        pixels = self._processed(list(images), self.prompts([""] * len(images)))
        return Prompts({k: v for k, v in texts.items() if not k.startswith(_PIXELS)}, pixels, which)

    def _positions(self, texts: dict[str, Tensor]) -> Tensor:
        return self.module._prepare_position_ids_for_generation(texts["input_ids"], dict(texts))

    def inputs(self, images: Sequence[Tensor] | Tensor, questions: Sequence[str]) -> dict[str, Tensor]:
        """What `module.generate(**inputs)` takes for questions about images, as the processor alone makes it."""
        return self._processed(list(images), self.prompts(questions))

    def _processed(self, images: list[Tensor] | None, texts: list[str]) -> dict[str, Tensor]:
        images = None if images is None else [[image] for image in images]
        try:
            made = self.processor(images=images, text=texts, padding=True, padding_side="left", return_tensors="pt")
        except Exception as error:  # processors raise many types, and say little about whose fault it is
            raise EdgelibError(
                f"the processor of {self.name} cannot prepare these images and questions ({first_line(error)}), such "
                f"as {texts[0]!r}"
            ) from error
        made = {k: v.to(self.device) for k, v in made.items()}
        return {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in made.items()}

    def features(self, pixels: dict[str, Tensor]) -> Tensor | list[Tensor]:
        """Features of each image as the decoder reads them, [tokens, D] each; the vision tower runs once."""
        encode = self.module.base_model.get_image_features
        taken = {k: v for k, v in pixels.items() if k in inspect.signature(encode).parameters}
        made = encode(**taken, return_dict=True)
        if set(made.keys()) - _PLAIN:
            raise EdgelibError(f"{self.name} makes more of an image than one set of features, so none are shared")
        return made.pooler_output

    def decoder_inputs(self, prompts: Prompts, features: Tensor | Sequence[Tensor] | None) -> dict[str, object]:
        """Keyword arguments of the network's forward or `generate` for prompts whose images are encoded."""
        if features is None or not prompts.pixels:
            return dict(prompts.texts)
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        own = [features[i] for i in prompts.image.tolist()]
        own = torch.stack(own) if isinstance(features, Tensor) else own
        return prompts.texts | {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=own)}}

    @cached_property
    def vision_key(self) -> tuple:
        """Equal for two copies of a model that share every weight outside the decoder: they see the same features."""
        texts, head = self._text_parts
        own = {n: t for n, t in self.module.state_dict().items() if not n.startswith((*texts, f"{head}."))}
        return tuple((name, tensor.data_ptr()) for name, tensor in own.items())

    @property
    def end_tokens(self) -> list[int]:
        """Ids of the tokens that end an answer."""
        part = self.module if self.chats else self.module.get_decoder()
        stop = self.module.generation_config.eos_token_id if self.chats else part.config.sep_token_id
        return list(stop) if isinstance(stop, list | tuple) else [stop]

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
        if not self.chats:
            return "text"
        image = prompts.texts["input_ids"] == self.image_token
        return torch.where(image, MODALITIES.index("image"), MODALITIES.index("text"))


def _spellings(word: str) -> tuple[str, ...]:
    return word, word.capitalize(), f" {word}", f" {word.capitalize()}"
