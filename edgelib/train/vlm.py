"""Train `scenes-vlm`, the embedded Qwen2-VL: `edgelib train scenes-vlm --out FOLDER`.

The vision tower starts as that of `scenes-clip` and first learns to say what covers each patch; then the decoder joins
in and learns to answer, while the tower goes on with both. Every scene is seen once. Read-outs are thrown away.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPModel, Qwen2VLForConditionalGeneration

from edgelib.data.scenes.questions import WRITERS, scene_questions, true_answers
from edgelib.ground.checks import seed_number
from edgelib.ground.paths import whole_file
from edgelib.models.load import model_folder
from edgelib.train.card import write_vlm_card
from edgelib.train.loop import add_line, learning_rate, parameter_groups
from edgelib.train.vlm_batches import (
    IGNORED,
    Sequences,
    SequenceWriter,
    Sights,
    answer_logits,
    batches,
    image_tokens,
    to_patches,
    tower_states,
)
from edgelib.train.vlm_folder import CONTEXT, TEMPORAL, build_processor, save_vlm, vlm_config
from edgelib.train.vlm_readouts import SightHeads, WordLoss

VALIDATED = 400  # validation images behind each line of the log
SCORED = 2000  # test images of each task behind the scores on the model card


@dataclass(frozen=True)
class VlmRecipe:
    """Everything shipped weights depend on besides the code."""

    seed: int = 0
    tower: tuple[int, float] = (1700, 1e-3)  # steps and peak learning rate of the tower alone
    tower_batch: int = 64  # images
    # (steps, peak learning rate) of each cycle of the whole model; a cycle starts from the average of the last one
    cycles: tuple[tuple[int, float], ...] = ((2400, 2e-3), (1400, 1.5e-3))
    tower_share: float = 0.4  # of that rate, for the tower
    batch: int = 32  # images, each with the questions that fit into its sequence
    sight_weight: float = 0.5  # of the read-outs in the loss, once there are answers
    word_weight: float = 0.5  # of naming image tokens by words
    places_from: int = 1  # cycle, from 0, in which words for sides, texture and light join in, and drill in them
    weight_decay: float = 0.05
    warmup: float = 0.06  # share of the steps
    average: float = 0.997  # decay of the running average of the weights, which is what is kept
    log_every: int = 200

    @property
    def images(self) -> int:
        """Scenes seen."""
        return self.tower[0] * self.tower_batch + sum(steps for steps, _ in self.cycles) * self.batch


def clip_weights() -> dict[str, Tensor]:
    """The vision tower of `scenes-clip` under Qwen2-VL's names; its positions, class token and outer norms fall away.

    A still image is TEMPORAL equal frames, so each frame has an equal share of the patch embedding.
    """
    old = CLIPModel.from_pretrained(model_folder("scenes-clip"), dtype=torch.float32).vision_model
    embedding = old.embeddings.patch_embedding.weight.detach()
    new = {"patch_embed.proj.weight": embedding[:, :, None].repeat(1, 1, TEMPORAL, 1, 1) / TEMPORAL}
    for number, layer in enumerate(old.encoder.layers):
        attention = layer.self_attn
        for kind in ("weight", "bias"):
            parts = [getattr(each, kind) for each in (attention.q_proj, attention.k_proj, attention.v_proj)]
            block = {
                "norm1": getattr(layer.layer_norm1, kind),
                "attn.qkv": torch.cat(parts),
                "attn.proj": getattr(attention.out_proj, kind),
                "norm2": getattr(layer.layer_norm2, kind),
                "mlp.fc1": getattr(layer.mlp.fc1, kind),
                "mlp.fc2": getattr(layer.mlp.fc2, kind),
            }
            new |= {f"blocks.{number}.{name}.{kind}": value.detach() for name, value in block.items()}
    return new


def optimise(
    network: nn.Module, groups: list[dict], losses: Iterator[Tensor], steps: int, recipe: VlmRecipe
) -> Iterator[tuple[int, float, nn.Module]]:
    """Take a step for each loss; yields (steps taken, loss, running average of the network), the same object each time.

    groups: of an optimizer, each with the `peak` of its learning rate.
    """
    average = copy.deepcopy(network).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
    parameters = [p for group in groups for p in group["params"]]
    for step, loss in zip(range(steps), losses):  # noqa: B905 (batches have no end)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, group["peak"], recipe.warmup)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss became {float(loss.detach())} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(recipe.average, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, current in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(current, 1 - decay)
        yield step + 1, float(loss.detach()), average


def _groups(modules: list[nn.Module], peak: float, recipe: VlmRecipe) -> list[dict]:
    return [{**group, "peak": peak} for group in parameter_groups(modules, recipe.weight_decay)]


@torch.no_grad()
def answered(model: Qwen2VLForConditionalGeneration, patches: Tensor, said: Sequences) -> Tensor:
    """Whether greedy decoding gives exactly the answer, bool, for each question in turn.

    It does if every token of the answer, and its end, is the likeliest after those before.
    """
    target = said.targets[said.targets != IGNORED]
    image = image_tokens(model.model.visual, tower_states(model.model.visual, patches))
    right = answer_logits(model, image, said).argmax(-1) == target
    ends = target == model.config.text_config.eos_token_id
    question = ends.cumsum(0) - ends.long()
    return torch.ones(int(ends.sum()), dtype=torch.bool).scatter_reduce(0, question, right, "amin")


class Training:
    """The model and its read-outs in training, stage after stage; what a stage leaves is kept in `out`."""

    def __init__(self, out: Path, recipe: VlmRecipe, report: Callable[[str], None]):
        self.out, self.recipe, self.report, self.started = out, recipe, report, time.monotonic()
        self.processor = build_processor()
        self.writer = SequenceWriter(self.processor.tokenizer)
        torch.manual_seed(seed_number(recipe.seed))  # initial weights
        self.model = Qwen2VLForConditionalGeneration(vlm_config(self.processor.tokenizer))
        self.visual = self.model.model.visual
        self.visual.load_state_dict(clip_weights(), strict=False)
        self.heads = SightHeads(self.visual.config.embed_dim)
        self.words = WordLoss(self.processor.tokenizer)
        self.held_out = next(batches(VALIDATED, recipe.seed, self.writer, "validation"))

    def stage(self, name: str, network: nn.ModuleDict, steps: Callable[[], nn.ModuleDict]) -> None:
        """Run the steps of a stage, unless a stopped training has, and go on from the average that they left."""
        file = self.out / f"{name}.safetensors"
        if not file.is_file():
            with whole_file(file) as place:
                save_file(steps().state_dict(), place)
        network.load_state_dict(load_file(file))

    def log(self, images: int, loss: float, heads: SightHeads, visual: nn.Module, model: nn.Module | None) -> None:
        """Add a line to training_log.csv: how many patches, and how many answers, are right on validation scenes."""
        sights, said = self.held_out
        with torch.no_grad():
            patches = heads.accuracy(tower_states(visual, sights.patches), sights)
        answers = round(float(answered(model, sights.patches, said).float().mean()), 4) if model else ""
        line = dict(scenes_seen=images, loss=round(loss, 4), patch_accuracy=round(patches, 4), answer_accuracy=answers)
        add_line(self.out / "training_log.csv", line)
        self.report(f"{line}  {(time.monotonic() - self.started) / 60:.1f} min")

    def tower_steps(self, network: nn.ModuleDict) -> nn.ModuleDict:
        """Train the vision tower and its read-outs; returns the running average of both."""
        recipe, (steps, peak) = self.recipe, self.recipe.tower
        stream = batches(recipe.tower_batch, recipe.seed, None)
        losses = (self.heads.loss(tower_states(self.visual, sights.patches), sights) for sights, _ in stream)
        groups = _groups([self.visual, self.heads], peak, recipe)
        for step, loss, average in optimise(network, groups, losses, steps, recipe):
            if step % recipe.log_every == 0 or step == steps:
                self.log(step * recipe.tower_batch, loss, average["heads"], average["visual"], None)
        return average

    def cycle_steps(self, network: nn.ModuleDict, cycle: int) -> nn.ModuleDict:
        """Train everything to answer for one cycle; returns the running average."""
        recipe, (steps, peak) = self.recipe, self.recipe.cycles[cycle]
        before = replace(recipe, cycles=recipe.cycles[:cycle]).images
        # A few scenes in a thousand are left out of the stream, so an index a little further on is a new scene.
        places = cycle >= recipe.places_from
        stream = batches(recipe.batch, recipe.seed, self.writer, start=before + before // 20, drill=places)

        def loss_of(sights: Sights, said: Sequences) -> Tensor:
            states = tower_states(self.visual, sights.patches)
            image = image_tokens(self.visual, states)
            answers = F.cross_entropy(answer_logits(self.model, image, said), said.targets[said.targets != IGNORED])
            named = (image, self.model.get_input_embeddings().weight, sights)
            words = self.words.objects(*named)
            if places:
                words = words + self.words.places(*named)
            return answers + recipe.word_weight * words + recipe.sight_weight * self.heads.loss(states, sights)

        tower = [self.visual.patch_embed, self.visual.blocks, self.heads]
        decoder = [self.visual.merger, self.model.model.language_model, self.model.lm_head]
        groups = _groups(tower, recipe.tower_share * peak, recipe) + _groups(decoder, peak, recipe)
        losses = (loss_of(sights, said) for sights, said in stream)
        for step, loss, average in optimise(network, groups, losses, steps, recipe):
            if step % recipe.log_every == 0 or step == steps:
                model = average["model"]
                self.log(before + step * recipe.batch, loss, average["heads"], model.model.visual, model)
                save_vlm(model, self.processor, self.out)
        return average

    def run(self) -> Qwen2VLForConditionalGeneration:
        """All stages; returns the model."""
        tower = nn.ModuleDict({"visual": self.visual, "heads": self.heads})
        self.stage("tower", tower, lambda: self.tower_steps(tower))
        network = nn.ModuleDict({"model": self.model, "heads": self.heads})
        names = [f"cycle-{number}" for number in range(1, len(self.recipe.cycles) + 1)]
        for cycle, name in enumerate(names):
            self.stage(name, network, partial(self.cycle_steps, network, cycle))
        for name in ("tower", *names):
            (self.out / f"{name}.safetensors").unlink()
        return self.model.requires_grad_(False).eval()


def scores_on_test(model: Qwen2VLForConditionalGeneration, processor, seed: int) -> dict[str, tuple[int, int]]:
    """{task: (questions answered exactly, questions)} on the first SCORED images of each task's test set."""
    writer = SequenceWriter(processor.tokenizer, length=4 * CONTEXT)
    scores = {}
    for task in WRITERS:
        rows, images = scene_questions(task, SCORED, seed, "test")
        answer = true_answers(rows)
        right = total = 0
        for start in range(0, SCORED, VALIDATED):
            part = rows[rows["image"].between(start, start + VALIDATED - 1)]
            cases = [
                list(zip(group["question"], answer[group.index], strict=True)) for _, group in part.groupby("image")
            ]
            hits = answered(model, to_patches(images[start : start + VALIDATED]), writer(cases))
            right, total = right + int(hits.sum()), total + len(hits)
        scores[task] = (right, total)
    return scores


def train(out: Path, recipe: VlmRecipe | None = None, report: Callable[[str], None] = print) -> None:
    """Train `scenes-vlm` and write its Hugging Face folder to `out`; takes about an hour and a half on one core."""
    recipe = recipe or VlmRecipe()
    out.mkdir(parents=True, exist_ok=True)
    training = Training(out, recipe, report)
    model = training.run()
    save_vlm(model, training.processor, out)
    scores = scores_on_test(model, training.processor, recipe.seed)
    write_vlm_card(out, asdict(recipe), recipe.images, scores, sum(p.numel() for p in model.parameters()))
