"""Refine a connector through the frozen decoder: Adam on the connector alone, on questions and captions of scenes.

A sequence is the prompt up to the image, whose states are computed once for all, the image, then question after
question with its answer; each question sees the image and itself, so what is learned is the prompt with one question.
Step t sees scenes of its own and nothing is random, so the weights after a number of steps depend on that number and
the recipe alone, however often the training was stopped in between.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from edgelib.errors import EdgelibError
from edgelib.ground.paths import whole_file
from edgelib.train.graft.sources import Tower
from edgelib.train.graft.squares import tower_states
from edgelib.train.graft.world import cases, sights

IGNORED = -100  # target where there is nothing to learn
KEPT_EVERY = 60.0  # seconds between two checkpoints


@dataclass(frozen=True)
class GraftRecipe:
    """Everything a connector depends on besides its halves, the steps and the code."""

    seed: int = 0
    squares: tuple[int, int] = (12, 2)  # batches that least squares are fitted to, and those held out
    batch: int = 4  # scenes a step
    rate: float = 3e-4  # of Adam, after the warm-up constant, so that any step may be the last
    warmup: int = 10  # steps
    average: float = 0.99  # decay of the running average of the weights, which is what is kept


class Writer:
    """Prompts as tokens: what stands before the image, and each question with its answer behind it."""

    def __init__(self, processor: Any, image: int):
        self._tokenizer = processor.tokenizer
        self._template = processor.apply_chat_template
        before, _, _ = self._asked("a").partition(self._tokenizer.convert_ids_to_tokens(image))
        self.before = self._encode(before)
        self._image = self._tokenizer.convert_ids_to_tokens(image)
        self._end = self._tokenizer.eos_token_id

    def _asked(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return self._template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def line(self, asked: list[tuple[str, str]]) -> tuple[list[int], list[int], list[int], list[int]]:
        """(tokens, positions behind the image, number of the question from 1, targets) of one image's questions."""
        tokens, places, numbers, targets = [], [], [], []
        for number, (question, answer) in enumerate(asked, start=1):
            prompt = self._asked(question).partition(self._image)[2]
            start, whole = len(self._encode(prompt)), self._encode(prompt + answer)
            tokens += whole
            places += range(len(whole))
            numbers += [number] * len(whole)
            targets += [*[IGNORED] * (start - 1), *whole[start:], self._end]
        return tokens, places, numbers, targets


class Refinement:
    """A connector in training: its network, the optimizer, the running average, and the number of steps taken."""

    def __init__(self, model: nn.Module, processor: Any, tower: Tower, recipe: GraftRecipe, told: dict[str, Any]):
        """told: what else the result depends on, such as the digests of its halves; kept with each checkpoint."""
        self.model, self.tower, self.recipe = model, tower, recipe
        self.told = told | {"recipe": json.loads(json.dumps(asdict(recipe)))}
        self.connector = model.model.multi_modal_projector
        self.connector.requires_grad_(True)
        self.average = {name: p.detach().clone() for name, p in self.connector.named_parameters()}
        self.optimizer = torch.optim.Adam(self.connector.parameters(), lr=recipe.rate, betas=(0.9, 0.98))
        self.steps, self.seconds = 0, 0.0  # taken, and what they took so far on whatever machine
        self._writer = Writer(processor, model.config.image_token_id)
        self._stream: Iterator | None = None
        self._prefix: list[tuple[Tensor, Tensor]] = []

    def run(self, steps: int | None, seconds: float | None, kept: Path, report: Callable[[int, float], None]) -> None:
        """Take steps up to the number `steps` in all, or until `seconds` are over, and keep a checkpoint.

        The time is looked at between steps, so it is a whole number of them that is taken; at least one if any time is
        given. report: called after each step with its number and the loss in nats a token.
        Raises EdgelibError if the loss is no longer finite.
        """
        begun = last = time.monotonic()
        while steps is None or self.steps < steps:
            started = time.monotonic()
            loss = self._step()
            now = time.monotonic()
            self.seconds += now - started
            report(self.steps, loss)
            over = seconds is not None and now - begun >= seconds
            if over or now - last >= KEPT_EVERY:
                self.keep(kept)
                last = now
            if over:
                return
        self.keep(kept)

    def _step(self) -> float:
        recipe = self.recipe
        if self._stream is None:
            # a few scenes in a thousand are left out of the stream, so an index a little further on is a new scene
            begin = self.steps * recipe.batch
            self._stream = _from(begin, recipe)
        seen = next(self._stream)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate * min(1.0, (self.steps + 1) / recipe.warmup)
        loss = self.loss(seen.images, cases(seen.scenes, "train", recipe.seed))
        if not torch.isfinite(loss):
            raise EdgelibError(f"the loss became {float(loss.detach())} at step {self.steps}; take a smaller rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.connector.parameters(), 1.0)
        self.optimizer.step()
        self.steps += 1
        decay = min(recipe.average, self.steps / (self.steps + 9))
        with torch.no_grad():
            for name, parameter in self.connector.named_parameters():
                self.average[name].lerp_(parameter, 1 - decay)
        return float(loss.detach())

    def loss(self, images: Tensor, asked: list[list[tuple[str, str]]]) -> Tensor:
        """Mean negative log-probability of the answers' tokens, nats."""
        states = tower_states(self.model.model.vision_tower, self.tower, images, self.model.config.vision_feature_layer)
        shown = self.connector(states)  # [N, patches, width]
        rows = [self._writer.line(own) for own in asked]
        tokens, places, numbers, targets = (
            pad_sequence([torch.tensor(part) for part in column], batch_first=True, padding_value=value)
            for column, value in zip(zip(*rows, strict=True), (0, 0, -1, IGNORED), strict=True)
        )
        inner, before, pictured = self.model.model.language_model, len(self._writer.before), shown.shape[1]
        embedded = torch.cat([shown, inner.embed_tokens(tokens)], 1)
        line = torch.arange(before, before + pictured).expand(len(shown), -1)
        numbers = F.pad(numbers, (pictured, 0), value=0)
        hidden = inner(
            inputs_embeds=embedded,
            position_ids=torch.cat([line, before + pictured + places], 1),
            attention_mask=self._mask(numbers, before),
            past_key_values=self._past(len(shown)),
            use_cache=True,
        ).last_hidden_state[:, pictured:]
        wanted = targets != IGNORED
        return F.cross_entropy(self.model.lm_head(hidden[wanted]), targets[wanted])

    def _mask(self, numbers: Tensor, before: int) -> Tensor:
        """What each token attends to [N, 1, T, before + T]: what came before, of the image and of its own question."""
        size = numbers.shape[1]
        back = torch.ones(size, size, dtype=torch.bool).tril()
        own = (numbers[:, :, None] == numbers[:, None, :]) | (numbers[:, None, :] == 0)
        return F.pad(own & back, (before, 0), value=True)[:, None]

    def _past(self, count: int):
        """A cache that holds the states of what stands before the image, for `count` sequences."""
        from transformers import DynamicCache

        if not self._prefix:
            ids = torch.tensor([self._writer.before])
            with torch.no_grad():
                read = self.model.model.language_model(input_ids=ids, use_cache=True).past_key_values
            self._prefix = [(layer.keys, layer.values) for layer in read.layers]
        cache = DynamicCache()
        for number, (keys, values) in enumerate(self._prefix):
            cache.update(keys.expand(count, -1, -1, -1), values.expand(count, -1, -1, -1), number)
        return cache

    def keep(self, file: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        tensors = {f"connector.{name}": p.detach() for name, p in self.connector.named_parameters()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        for name, parameter in self.connector.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            tensors |= {f"{key}.{name}": state[key] for key in ("exp_avg", "exp_avg_sq") if key in state}
        metadata = {
            "told": json.dumps(self.told, sort_keys=True),
            "steps": str(self.steps),
            "seconds": f"{self.seconds:.1f}",
        }
        with whole_file(file) as place:
            save_file({name: t.contiguous().clone() for name, t in tensors.items()}, place, metadata=metadata)

    def go_on_from(self, file: Path) -> None:
        """Take up a checkpoint; raises EdgelibError for one that is damaged, or of other halves or another recipe."""
        tensors, told, steps, self.seconds = read_checkpoint(file)
        if told != self.told:
            other = ", ".join(key for key in self.told if told.get(key) != self.told[key])
            raise EdgelibError(
                f"{file} is a connector that was trained with another {other}; take an empty folder, or the same "
                "halves and seed"
            )
        with torch.no_grad():
            for name, parameter in self.connector.named_parameters():
                parameter.copy_(tensors.get(f"connector.{name}", tensors[f"average.{name}"]))
                self.average[name].copy_(tensors[f"average.{name}"])
                if f"exp_avg.{name}" in tensors:
                    self.optimizer.state[parameter] = {
                        "step": torch.tensor(float(steps)),
                        "exp_avg": tensors[f"exp_avg.{name}"],
                        "exp_avg_sq": tensors[f"exp_avg_sq.{name}"],
                    }
        self.steps = steps


def _from(begin: int, recipe: GraftRecipe) -> Iterator:
    """The stream of batches from the scene number `begin` on, as if all before had been looked at."""
    stream = sights(recipe.batch, "train", recipe.seed)
    for _ in range(begin // recipe.batch):
        next(stream)
    return stream


def read_checkpoint(file: Path) -> tuple[dict[str, Tensor], dict[str, Any], int, float]:
    """Return (tensors, what it was told, steps, seconds) of a checkpoint; raises EdgelibError for a damaged one."""
    try:
        with safe_open(file, framework="pt") as opened:
            said = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}
        return tensors, json.loads(said["told"]), int(said["steps"]), float(said["seconds"])
    except Exception as error:  # safetensors raises its own type; what it says may be cut
        raise EdgelibError(
            f"{file} is no connector of a graft, or damaged ({error}); remove it to start anew"
        ) from None
