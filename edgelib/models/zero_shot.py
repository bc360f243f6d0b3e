"""A classifier by similarity: image features against one vector per class, whatever network makes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.ground.records import shown
from edgelib.models.families.dual import DualEncoder
from edgelib.models.families.duals import dual_encoder
from edgelib.models.preprocess import Preprocess
from edgelib.observe.watch import Pass

if TYPE_CHECKING:
    from edgelib.data.labelled import Dataset


_INCIDENTAL = ("_name_or_path", "transformers_version")  # settings that say where a model came from


def _unit(features: Tensor) -> Tensor:
    """Features of unit length, in float32 or better."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def fingerprint_of(module: nn.Module, traits: Sequence) -> str:
    """SHA-256 (hex) of a network's tensors, wiring and configuration, and of plain values that decide its inputs."""
    config = getattr(module, "config", None)
    settings = {k: v for k, v in config.to_dict().items() if k not in _INCIDENTAL} if config is not None else {}
    digest = hashlib.sha256(json.dumps([*traits, repr(module), settings], sort_keys=True, default=str).encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_traits(tokenizer: Any) -> object:
    """What decides the tokens of a text, as plain values."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return sorted(tokenizer.get_vocab().items())
    return {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}


def prompts_of(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every class in every template, class by class."""
    return [template.format(name) for name in class_names for template in templates]


def require_short(texts: Sequence[str], tokenizer: Any, context: int, name: str) -> None:
    """Raise EdgelibError for a text of more tokens than the model `name` reads, its beginning and end included."""
    lengths = [len(ids) for ids in tokenizer(list(texts), verbose=False).input_ids]  # it would warn of long ones
    longest = max(range(len(lengths)), key=lengths.__getitem__, default=None)
    if longest is not None and lengths[longest] > context:
        raise EdgelibError(
            f"prompt {shown(texts[longest])} of {lengths[longest]} tokens is longer than the {context} tokens that "
            f"{name} reads; shorten the name of the class, or the template in prompts"
        )


def require_trained(class_names: Sequence[str], labels: Sequence[str], name: str) -> None:
    """Raise EdgelibError for a class that the supervised classifier `name`, of classes `labels`, was not trained on."""
    missing = [c for c in class_names if c not in labels]
    if missing:
        raise EdgelibError(
            f"{name} was trained on {len(labels)} classes ({', '.join(labels[:10])}...) "
            f"and has no {', '.join(map(repr, missing[:10]))}; a supervised baseline needs every class of the data "
            "set in the label_names of its config.json"
        )


@dataclass(frozen=True)
class ZeroShotModel:
    """A network with what it needs to classify images. `module` is never modified: derived models are copies.

    Two kinds: `ClipModel` compares with encoded prompts, `TimmClassifier` with its own trained classes.
    """

    name: str
    module: nn.Module = field(repr=False)
    preprocess: Preprocess = field(repr=False)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters."""
        return next(self.module.parameters()).dtype

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every tensor, the architecture and what prepares its inputs: equal fingerprints, equal results."""
        return fingerprint_of(self.module, [type(self).__name__, repr(self.preprocess), self._input_traits()])

    def _input_traits(self) -> object:
        """What else decides the outputs: plain values."""
        return None

    def with_module(self, module: nn.Module, name: str | None = None) -> ZeroShotModel:
        """The same model around another network of the same shape."""
        return replace(self, module=module, name=name or self.name)

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> the network's input, on the model's device."""
        return self.preprocess(images.to(self.device), self.dtype)

    def image_features(self, pixels: Tensor) -> Tensor:
        """Preprocessed [N, 3, h, w] -> float32 [N, D] of unit length."""
        raise NotImplementedError

    def class_vectors(self, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Float32 [classes, D]: image_features @ class_vectors.T ranks the classes."""
        raise NotImplementedError

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> float32 features [N, D] of unit length."""
        return self.image_features(self.pixels(images))

    @torch.no_grad()  # inference mode would hide from a watcher whether a tensor was changed
    def probe(self) -> None:
        """Run the whole network once on a blank input, for those who watch how it is wired."""
        self.image_features(torch.zeros(1, 3, *self.preprocess.size, dtype=self.dtype, device=self.device))

    def calibration_passes(self, data: Dataset, batch_size: int = 64) -> Iterator[Pass]:
        """The runs that take the network over a calibration set, batch by batch: here the images that it shows."""
        items = data.shown()
        if not len(items):
            return
        for positions, images in data.subset(items.numpy()).batches(batch_size):
            yield Pass(partial(self._see, images), items[positions], "image")

    def _see(self, images: Tensor) -> Tensor:
        return self.image_features(self.pixels(images))


@dataclass(frozen=True)
class ClipModel(ZeroShotModel):
    """A dual encoder (CLIP, SigLIP): classes are the mean of their encoded prompts."""

    tokenizer: Any = field(repr=False, default=None)

    @property
    def family(self) -> DualEncoder:
        """What is special about models of this kind."""
        return dual_encoder(self.module.config.model_type, [type(self.module).__name__])

    def _input_traits(self) -> object:
        return tokenizer_traits(self.tokenizer)

    def image_features(self, pixels: Tensor) -> Tensor:
        """Preprocessed [N, 3, h, w] -> float32 [N, D] of unit length."""
        inputs = self.family.image_inputs(pixels, self.module.config)
        return _unit(self.family.image_features(self.module, inputs))

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> float32 [N, D] of unit length. Raises EdgelibError for a text longer than the model's context."""
        require_short(texts, self.tokenizer, self._context, self.name)
        return self._read(self._tokens(texts, return_tensors="pt"))

    @property
    def _context(self) -> int:
        return self.module.config.text_config.max_position_embeddings

    def _tokens(self, texts: Sequence[str], **options):
        padding = (
            {"padding": "max_length", "max_length": self._context} if self.family.fixed_length else {"padding": True}
        )
        return self.tokenizer(list(texts), **(padding | options))

    def text_inputs(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """What the text tower is given for texts that fit its context, by name."""
        return self._named(self._tokens(texts, return_tensors="pt"))

    def _named(self, tokens) -> dict[str, Tensor]:
        keys = ("input_ids",) if self.family.fixed_length else ("input_ids", "attention_mask")
        return {k: tokens[k].to(self.device) for k in keys}

    def _read(self, tokens) -> Tensor:
        return self.text_features(self._named(tokens))

    def text_features(self, inputs: dict[str, Tensor]) -> Tensor:
        """What `text_inputs` returns -> float32 [N, D] of unit length."""
        return _unit(self.family.text_features(self.module, inputs))

    @torch.inference_mode()
    def class_vectors(self, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Mean of the unit-length encodings of each class's prompts, renormalised (Radford et al., 2021)."""
        prompts = prompts_of(class_names, templates)
        parts = [self.encode_text(prompts[i : i + 256]) for i in range(0, len(prompts), 256)]
        features = torch.cat(parts).view(len(class_names), len(templates), -1)
        return F.normalize(features.mean(dim=1), dim=-1)

    @torch.no_grad()
    def probe(self) -> None:
        """Run both towers once on a blank input."""
        super().probe()
        self._read(self._tokens(["a"], return_tensors="pt"))

    def calibration_passes(self, data: Dataset, batch_size: int = 64) -> Iterator[Pass]:
        """Images first, then texts: those that the set gives its items, else "a photo of a {class}." for every class.

        Texts of one length run together, so that padding is seen only by a model that reads it (SigLIP). Those longer
        than the model's context are cut, as in its training.
        """
        yield from super().calibration_passes(data, batch_size)
        prompts = [f"a photo of a {c}." for c in data.class_names]
        items, texts = data.texts() or (range(len(prompts)), prompts)
        cut = {"truncation": True, "max_length": self._context}
        if not texts:
            return
        lengths = torch.tensor([len(ids) for ids in self.tokenizer(texts, **cut).input_ids])
        for length in lengths.unique():
            for chosen in (lengths == length).nonzero()[:, 0].split(batch_size):
                tokens = self._tokens([texts[i] for i in chosen], return_tensors="pt", **cut)
                yield Pass(partial(self._read, tokens), torch.tensor(items)[chosen], "text")


@dataclass(frozen=True)
class TimmClassifier(ZeroShotModel):
    """A supervised image classifier of timm: its classes are the ones it was trained on."""

    label_names: tuple[str, ...] = ()

    def _input_traits(self) -> object:
        return list(self.label_names)

    def image_features(self, pixels: Tensor) -> Tensor:
        """Preprocessed [N, 3, h, w] -> float32 [N, labels]: the classifier's scores at unit length."""
        return _unit(self.module(pixels))

    def class_vectors(self, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """One unit vector per class, picking its score. Raises EdgelibError for a class it was not trained on."""
        require_trained(class_names, self.label_names, self.name)
        index = torch.tensor([self.label_names.index(c) for c in class_names])
        return F.one_hot(index, len(self.label_names)).to(self.device, torch.float32)
