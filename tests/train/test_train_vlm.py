"""What `scenes-vlm` is trained with: sequences equal to single prompts, the real tower, a folder that loads."""

from __future__ import annotations

import re

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2VLForConditionalGeneration

import edgelib
from edgelib.data.scenes.questions import blind_answers, scene_questions, true_answers
from edgelib.data.scenes.records import COLOURS
from edgelib.data.scenes.shapes import SHAPES
from edgelib.infer.generate import generate
from edgelib.models.load import model_folder
from edgelib.tasks.benchmarks import TASKS
from edgelib.train.vlm import VlmRecipe, answered, clip_weights, train
from edgelib.train.vlm_batches import (
    CELLS,
    GRID,
    IGNORED,
    SequenceWriter,
    answer_logits,
    batches,
    by_cell,
    cover_by,
    image_tokens,
    prefix_positions,
    to_patches,
    tower_states,
)
from edgelib.train.vlm_folder import END, build_processor, known_text, save_vlm, vlm_config
from edgelib.train.vlm_readouts import SightHeads, WordLoss

CASES = [("Is there a circle in this image?", "yes"), ("Welche Farbe hat der Kreis?", "rot"), ("How many?", "2")]


@pytest.fixture(scope="module")
def processor():
    return build_processor()


@pytest.fixture(scope="module")
def model(processor):
    torch.manual_seed(0)
    return Qwen2VLForConditionalGeneration(vlm_config(processor.tokenizer)).eval()


@pytest.fixture(scope="module")
def images():
    return scene_questions("vqa", 2)[1]


def prompt(question: str, image: torch.Tensor, processor, answer: str = ""):
    """The ordinary way: chat template and processor, with the image as a picture."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=[text + answer], images=[picture], return_tensors="pt")


def seen(model, patches: torch.Tensor) -> torch.Tensor:
    return image_tokens(model.model.visual, tower_states(model.model.visual, patches))


def test_patches_are_those_of_the_image_processor(processor, images):
    expected = prompt("", images[0], processor)["pixel_values"]
    torch.testing.assert_close(to_patches(images)[0], expected, atol=1e-6, rtol=0)


def test_tower_states_are_those_of_transformers(model, images):
    patches = to_patches(images)
    grid = torch.tensor([[1, GRID, GRID]] * len(images))
    with torch.no_grad():
        expected = model.model.visual(patches.flatten(0, 1), grid).last_hidden_state
        got = tower_states(model.model.visual, patches).flatten(0, 1)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_positions_of_the_image_are_those_of_transformers(model, processor, images):
    inputs = prompt(CASES[0][0], images[0], processor)
    keys = ("input_ids", "image_grid_thw", "attention_mask", "mm_token_type_ids")
    expected = model.model.get_rope_index(**{key: inputs[key] for key in keys})[0]
    own = prefix_positions()
    assert (expected[:, 0, : own.shape[1]] == own).all()
    said = SequenceWriter(processor.tokenizer)([CASES[:1]])
    assert (said.positions[:, 0, : expected.shape[2]] == expected[:, 0]).all()


def test_several_questions_in_a_sequence_are_as_each_alone(model, processor, images):
    said = SequenceWriter(processor.tokenizer)([CASES, CASES[::-1]])
    with torch.no_grad():
        together = answer_logits(model, seen(model, to_patches(images)), said)
        alone = []
        for image, cases in zip(images, (CASES, CASES[::-1]), strict=True):
            for question, answer in cases:
                logits = model(**prompt(question, image, processor, answer)).logits[0]
                alone.append(logits[-2:])
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)


def test_targets_are_the_answers_and_their_end(processor):
    said = SequenceWriter(processor.tokenizer)([CASES, CASES[:1]])
    texts = [processor.tokenizer.decode(row[row != IGNORED]) for row in said.targets]
    assert texts == [f"yes {END} rot {END} 2 {END}", f"yes {END}"]


def test_what_does_not_fit_is_left_out_whole(processor):
    said = SequenceWriter(processor.tokenizer, length=30)([CASES])
    assert said.tokens.shape[1] <= 30
    assert processor.tokenizer.decode(said.targets[0][said.targets[0] != IGNORED]) == f"yes {END}"


def test_an_answer_is_right_only_if_all_its_tokens_are(model, processor, images):
    said = SequenceWriter(processor.tokenizer)([CASES])
    patches = to_patches(images[:1])
    with torch.no_grad():
        likeliest = answer_logits(model, seen(model, patches), said).argmax(-1)
    targets = said.targets.clone()
    targets[targets != IGNORED] = likeliest  # ends are missing, so put one after each two tokens
    spots = (targets != IGNORED).nonzero()
    end = processor.tokenizer.eos_token_id
    targets[tuple(spots[1::2].T)] = end
    hits = answered(model, patches, type(said)(said.tokens, said.positions, said.seen, targets))
    expected = [bool(likeliest[i] == end) for i in (1, 3, 5)]
    assert hits.tolist() == expected


def test_cells_gather_neighbouring_patches():
    line = torch.arange(GRID)
    place = by_cell(torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)[None])[0]
    assert place[:4].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert len({tuple(p) for p in place.tolist()}) == GRID**2


def test_cover_sums_to_one_and_names_the_class():
    cover = torch.zeros(1, 3, 48, 48)
    cover[0, 0, :8, :8], cover[0, 1, :4, 8:16] = 1.0, 1.0
    shares = cover_by(cover, torch.tensor([[2, 0, -1]]), classes=4)
    torch.testing.assert_close(shares.sum(-1), torch.ones(1, GRID**2))
    assert shares[0, 0].tolist() == [0, 0, 1, 0, 0]
    assert shares[0, 1].tolist() == [0.5, 0, 0, 0, 0.5]


def test_word_loss_is_least_where_tokens_spell_what_cells_show(processor):
    sights, _ = next(batches(4, 0, None))
    embedding = torch.eye(len(processor.tokenizer))
    words = WordLoss(processor.tokenizer)

    def spelled(shape: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
        """Image tokens whose logits are the logarithms of the shares."""
        image = torch.full((4, GRID**2 // 4, len(embedding)), -30.0)
        for names, share in ((SHAPES, shape), (COLOURS, colour)):
            ids = processor.tokenizer.convert_tokens_to_ids(list(names))
            cells = share.unflatten(1, (GRID**2 // 4, 4)).mean(2)
            image[:, :, ids] = (cells[..., :-1] / cells[..., -1:].clamp(min=1e-9)).clamp(min=1e-9).log()
        image[:, :, processor.tokenizer.convert_tokens_to_ids("background")] = 0.0
        return image

    true = words.objects(spelled(sights.shape, sights.colour), embedding, sights)
    wrong = words.objects(spelled(sights.shape.roll(1, 0), sights.colour.roll(1, 0)), embedding, sights)
    cells = [share.unflatten(1, (GRID**2 // 4, 4)).mean(2) for share in (sights.shape, sights.colour)]
    entropy = [-(torch.xlogy(c, c)).sum(-1).mean() for c in cells]
    torch.testing.assert_close(true, 3 * entropy[0] + entropy[1], atol=1e-3, rtol=0)
    assert wrong > true


def test_word_loss_knows_sides(processor):
    sights, _ = next(batches(4, 0, None))
    words, embedding = WordLoss(processor.tokenizer), torch.eye(len(processor.tokenizer))
    left, right = processor.tokenizer.convert_tokens_to_ids(["left", "right"])
    image = torch.zeros(4, CELLS, CELLS, len(embedding))
    image[:, :, 0, left] = image[:, :, -1, right] = 30.0
    told, mirrored = (words.places(each.flatten(1, 2), embedding, sights) for each in (image, image.flip(2)))
    assert mirrored - told == pytest.approx(30.0, abs=1e-3)
    assert set(sights.light.tolist()) <= {0, 1, IGNORED}


def test_training_scenes_are_the_same_in_any_batch_size(processor):
    writer = SequenceWriter(processor.tokenizer)
    small, large = batches(2, 0, writer), batches(4, 0, writer)
    parts, (sights, said) = [next(small), next(small)], next(large)
    assert torch.equal(torch.cat([part[0].patches for part in parts]), sights.patches)
    assert [t for part in parts for row in part[1].targets for t in row.tolist() if t != IGNORED] == [
        t for row in said.targets for t in row.tolist() if t != IGNORED
    ]


def test_warm_start_fills_the_tower_but_its_merger(model):
    missing = model.model.visual.load_state_dict(clip_weights(), strict=False)
    assert not missing.unexpected_keys
    assert {key.split(".")[0] for key in missing.missing_keys} == {"merger"}


def test_folder_loads_and_answers_with_plain_transformers(model, processor, images, tmp_path):
    save_vlm(model, processor, tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    inputs = prompt(CASES[0][0], images[0], AutoProcessor.from_pretrained(tmp_path))
    out = loaded.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert out.shape[1] > inputs["input_ids"].shape[1]
    assert loaded.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids(END)
    assert next(model.parameters()).dtype == torch.float32  # the caller's model stays as it was


def test_vocabulary_covers_every_question_and_answer(processor):
    texts = [*known_text()]
    for task in ("vqa", "pope", "mme"):
        rows, _ = scene_questions(task, 300)
        texts += [*rows["question"], *true_answers(rows)]
    ids = processor.tokenizer(texts)["input_ids"]
    assert processor.tokenizer.unk_token_id not in {token for row in ids for token in row}


@pytest.mark.slow
def test_a_stopped_training_goes_on_and_leaves_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("edgelib.train.vlm.VALIDATED", 8)
    monkeypatch.setattr("edgelib.train.vlm.SCORED", 16)
    recipe = VlmRecipe(tower=(2, 1e-3), tower_batch=4, cycles=((2, 1e-3), (2, 1e-3)), batch=4, log_every=1)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(straight, recipe, report=lambda _: None)
    real = SightHeads.loss
    calls = []

    def failing(self, *args):
        calls.append(1)
        if len(calls) == 4:  # in the middle of the first cycle
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(SightHeads, "loss", failing)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, recipe, report=lambda _: None)
    train(stopped, recipe, report=lambda _: None)
    for name in ("model.safetensors", "training_log.csv", "README.md", "config.json", "tokenizer.json"):
        assert (stopped / name).read_bytes() == (straight / name).read_bytes(), name
    assert not list(stopped.glob("*cycle*")) and not list(stopped.glob("tower*"))


@pytest.mark.parametrize("task", ["vqa", "pope", "mme"])
def test_shipped_model_answers_as_its_card_says_and_better_than_blind(task):
    data = edgelib.dataset(f"scenes-{task}", split="validation", n=120)
    answered = generate(edgelib.load("scenes-vlm"), data)["score"].mean()
    card = (model_folder("scenes-vlm") / "README.md").read_text()
    claimed = float(re.search(rf"`scenes-{task}`.*: (0\.\d+)", card)[1])
    assert answered == pytest.approx(claimed, abs=0.07)
    guesses = blind_answers(data.rows, scene_questions(task, 500, split="train")[0])
    blind = TASKS[task].answer_scores(guesses, data.rows[data.task.reference])["score"].mean()
    assert answered > blind + 0.15
