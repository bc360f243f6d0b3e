"""Training batches of `scenes-vlm`: several questions about an image in one sequence, none of which sees another.

A sequence is the image, then question after question, each with its answer. Each question attends to the image and to
itself, and its positions start where the image ends, so what is learned is exactly the prompt with a single question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLForConditionalGeneration

from edgelib.data.scenes.questions_mme import PAIRS, light_of, mme_pair
from edgelib.data.scenes.questions_pope import pope_questions
from edgelib.data.scenes.questions_scene import Draws, Scene, draws_of, visible_scenes, wording
from edgelib.data.scenes.questions_vqa import vqa_question, vqa_questions
from edgelib.data.scenes.records import COLOURS, IMAGE_SIZE, TEXTURES
from edgelib.data.scenes.shapes import SHAPES
from edgelib.train.loop import pixel_values
from edgelib.train.vlm_folder import END, IMAGE, MERGE, PATCH, START, TEMPORAL, VISION_END, VISION_START

GRID = IMAGE_SIZE // PATCH  # patches a side
CELLS = GRID // MERGE  # image tokens a side
LENGTH = 96  # tokens of a sequence at most; an image is asked what fits in
_TASKS = ("vqa", "pope", "mme")
DRILLED = {"vqa": ["side", "is_side", "left_of"], "mme": ["position", "landmark", "scene", "posters"]}
_BEFORE = 3  # tokens before those of the image: start, role, start of the image
IGNORED = -100  # target where there is nothing to learn, such as a token that is not part of an answer


@dataclass(frozen=True)
class Sights:
    """N images and what there is to see; patches stand in the order of Qwen2-VL, cell by cell."""

    patches: Tensor  # float32 [N, patches, 3 * TEMPORAL * PATCH**2]
    shape: Tensor  # float32 [N, patches, shapes + 1], share of each patch by shape; the last is everything else
    colour: Tensor  # float32 [N, patches, colours + 1]
    texture: Tensor  # int64 [N]
    count: Tensor  # int64 [N], objects less one
    light: Tensor  # int64 [N], 0 for a dark and 1 for a bright background, IGNORED for one in between


@dataclass(frozen=True)
class Sequences:
    """The questions about N images, and their answers."""

    tokens: Tensor  # int64 [N, T]
    positions: Tensor  # int64 [3, N, T], M-RoPE's
    seen: Tensor  # bool [N, 1, T, T], what each token attends to
    targets: Tensor  # int64 [N, T], the next token of an answer, else IGNORED


def by_cell(grid: Tensor) -> Tensor:
    """[N, GRID, GRID, ...] -> [N, GRID**2, ...], the MERGE x MERGE patches of an image token next to each other."""
    cells = grid.unflatten(2, (CELLS, MERGE)).unflatten(1, (CELLS, MERGE)).transpose(2, 3)
    return cells.flatten(1, 4)


def to_patches(images: Tensor) -> Tensor:
    """uint8 [N, 3, 48, 48] -> [N, patches, values], as the image processor makes them."""
    blocks = pixel_values(images).unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5)
    return by_cell(blocks[:, :, :, :, None].expand(-1, -1, -1, -1, TEMPORAL, -1, -1)).flatten(2)


def cover_by(cover: Tensor, index: Tensor, classes: int) -> Tensor:
    """Share of each patch by class [N, patches, classes + 1]; index [N, objects] is an object's class, -1 for none."""
    share = F.avg_pool2d(cover, PATCH)
    named = F.one_hot(index.clamp(min=0), classes) * (index >= 0)[..., None]
    known = torch.einsum("nohw,noc->nhwc", share, named.float())
    return by_cell(torch.cat([known, (1 - known.sum(-1, keepdim=True)).clamp(min=0)], -1))


def asked_of(scene: Scene, draws: dict[str, Draws], seed: int, drill: bool = False) -> list[tuple[str, str]]:
    """(question, answer) pairs of one training image: its VQA questions, and one of POPE's and two of MME's.

    With `drill` those of DRILLED too, which the three tasks ask too rarely to be learned from.
    """
    cases = vqa_questions(scene, draws["vqa"])
    cases.append(draws["pope"].pick(pope_questions(scene, draws["pope"], seed)))
    categories = [list(PAIRS), list(PAIRS), *([DRILLED["mme"]] if drill else [])]
    for names in categories:
        pair = None
        while pair is None:
            pair = mme_pair(draws["mme"].pick(names), scene, draws["mme"])
        cases.append(draws["mme"].pick(pair))
    if drill:
        cases += filter(None, (vqa_question(kind, scene, draws["vqa"]) for kind in DRILLED["vqa"]))
    pairs = [(case["question"], case["answer"]) for case in cases]
    return sorted(pairs, key=lambda _: draws["mme"].pick(range(1 << 16)))


class SequenceWriter:
    """Writes questions and answers as tokens, in the format of the chat template."""

    def __init__(self, tokenizer, length: int = LENGTH):
        self._length = length
        self._encode = cache(lambda text: tuple(tokenizer(text, add_special_tokens=False)["input_ids"]))
        self._prefix = self._encode(f"{START}user {VISION_START}{IMAGE * CELLS**2}{VISION_END}")
        self._middle, (self._end,) = self._encode(f"{END}{START}assistant"), self._encode(END)
        self._pad = tokenizer.pad_token_id
        self._places = prefix_positions()

    def _lines(self, cases: list[tuple[str, str]]) -> tuple[list[int], list[int], list[int], list[int]]:
        """(tokens, positions, number of the question, targets) of one image; 0 is the number of the image's part."""
        size, first = len(self._prefix), int(self._places.max()) + 1
        tokens, places, numbers, targets = [*self._prefix], [0] * size, [0] * size, [IGNORED] * size
        for number, (question, answer) in enumerate(cases, start=1):
            asked, answered = [*self._encode(question), *self._middle], self._encode(answer)
            length = len(asked) + len(answered)
            if len(tokens) + length > self._length:
                continue
            tokens += [*asked, *answered]
            places += range(first, first + length)
            numbers += [number] * length
            targets += [*[IGNORED] * (len(asked) - 1), *answered, self._end]
        return tokens, places, numbers, targets

    def __call__(self, cases: list[list[tuple[str, str]]]) -> Sequences:
        """Write the (question, answer) pairs of N images; what does not fit into the length is left out."""

        def padded(rows: Iterable[list[int]], value: int) -> Tensor:
            return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)

        tokens, places, numbers, targets = zip(*map(self._lines, cases), strict=True)
        positions = padded(places, 0).repeat(3, 1, 1)
        positions[:, :, : len(self._prefix)] = self._places[:, None]
        number = padded(numbers, -1)
        seen = (number[:, :, None] == number[:, None, :]) | (number[:, None, :] == 0)
        seen &= torch.ones(seen.shape[1:], dtype=torch.bool).tril()
        return Sequences(padded(tokens, self._pad), positions, seen[:, None], padded(targets, IGNORED))


def prefix_positions() -> Tensor:
    """M-RoPE positions int64 [3, tokens] up to the end of the image: depth, row and column."""
    row, column = torch.meshgrid(torch.arange(CELLS), torch.arange(CELLS), indexing="ij")
    image = _BEFORE + torch.stack([torch.zeros_like(row), row, column]).flatten(1)
    after = torch.full((3, 1), _BEFORE + CELLS)
    return torch.cat([torch.arange(_BEFORE).expand(3, -1), image, after], 1)


def batches(
    size: int,
    seed: int,
    writer: SequenceWriter | None,
    split: str = "train",
    start: int = 0,
    drill: bool = False,
) -> Iterator[tuple[Sights, Sequences | None]]:
    """Batches of the scenes of a split in order, from index `start` on, without end; questions only with a writer."""
    kept: list[tuple] = []
    for scenes, *drawn in visible_scenes(split, seed, start):
        kept += zip(scenes, *drawn, strict=True)
        while len(kept) >= size:
            shown, images, cover, shape = zip(*kept[:size], strict=True)
            sights = _sights(shown, torch.stack(images), torch.stack(cover), torch.stack(shape))
            yield sights, writer(_cases(shown, split, seed, drill)) if writer else None
            kept = kept[size:]


def _sights(scenes: Sequence[Scene], images: Tensor, cover: Tensor, shape: Tensor) -> Sights:
    colours, lights = list(COLOURS), {light: number for number, light in enumerate(wording()["lights"])}
    colour = torch.full_like(shape, -1)
    colour[shape >= 0] = torch.tensor([colours.index(thing.colour) for scene in scenes for thing in scene.things])
    return Sights(
        to_patches(images),
        cover_by(cover, shape, len(SHAPES)),
        cover_by(cover, colour, len(colours)),
        torch.tensor([TEXTURES.index(scene.texture) for scene in scenes]),
        torch.tensor([len(scene.things) - 1 for scene in scenes]),
        torch.tensor([lights.get(light_of(scene), IGNORED) for scene in scenes]),
    )


def _cases(scenes: Sequence[Scene], split: str, seed: int, drill: bool) -> list[list[tuple[str, str]]]:
    drawn = (draws_of(task, split, seed, [scene.index for scene in scenes]) for task in _TASKS)
    return [
        asked_of(scene, dict(zip(_TASKS, draws, strict=True)), seed, drill)
        for scene, *draws in zip(scenes, *drawn, strict=True)
    ]


def tower_states(visual: nn.Module, patches: Tensor) -> Tensor:
    """The vision tower's states [N, patches, width] before the merger, all images in one call of each layer."""
    line = torch.arange(GRID)
    place = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)[None]
    cos, sin = (t[None, None] for t in visual.rotary_pos_emb(patches, by_cell(place)[0]))

    def rotate(x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-right, left], -1) * sin

    x = F.linear(patches, visual.patch_embed.proj.weight.flatten(1))
    for block in visual.blocks:
        heads = block.attn.num_heads
        q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(rotate(q), rotate(k), v)
        x = x + block.attn.proj(mixed.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return x


def image_tokens(visual: nn.Module, states: Tensor) -> Tensor:
    """What the decoder gets of an image [N, cells, decoder width], from `tower_states`."""
    return visual.merger(states.flatten(0, 1)).view(len(states), CELLS**2, -1)


def answer_logits(model: Qwen2VLForConditionalGeneration, image: Tensor, said: Sequences) -> Tensor:
    """Logits [answer tokens, vocabulary] at the targets, from `image_tokens`."""
    inner, cells = model.model.language_model, image.shape[1]
    embedded = inner.embed_tokens(said.tokens)
    embedded = torch.cat([embedded[:, :_BEFORE], image, embedded[:, _BEFORE + cells :]], 1)
    hidden = inner(
        inputs_embeds=embedded, position_ids=said.positions, attention_mask=said.seen, use_cache=False
    ).last_hidden_state
    return model.lm_head(hidden[said.targets != IGNORED])
