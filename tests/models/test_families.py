"""One file a family: prompts, tiles and features of each, the answers of transformers, and what is not known here."""

from __future__ import annotations

import importlib
import json
import pickle
import pkgutil
from functools import partial
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace

import pytest
import torch
import vlm_folders

from edgelib import EdgelibError, calibration_set, dataset, load, quantize
from edgelib.infer import prefix
from edgelib.infer.decode import decode
from edgelib.infer.generate import generate
from edgelib.kv.cache import kv_cache
from edgelib.models import families
from edgelib.models.families import duals, writers
from edgelib.models.families.base import Family
from edgelib.models.generative import GenerativeModel
from edgelib.observe.calibrate import calibrate
from edgelib.quant.report import quantization_report

FOLDERS = {
    "qwen3_vl": vlm_folders.qwen3_vl,
    "internvl": vlm_folders.internvl,
    "idefics3 in tiles": partial(vlm_folders.idefics3, tiles=True, seed=2),
    "llava_onevision": vlm_folders.llava_onevision,
    "florence2": vlm_folders.florence2,
    "paligemma": vlm_folders.paligemma,
    "paligemma 2": partial(vlm_folders.paligemma, window=8),
}
QUESTIONS = ["how many", "is there a red circle in the image", "what colour is the circle or the red or the"]
WHICH = torch.tensor([0, 2, 1, 0, 2, 0])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One loaded model of each family."""
    root = tmp_path_factory.mktemp("families")
    return {name: load(write(root / name.replace(" ", "_"))) for name, write in FOLDERS.items()}


@pytest.fixture(params=FOLDERS)
def model(request, models):
    return models[request.param]


@pytest.fixture
def images():
    """Three images of three shapes, which make different numbers of tiles or tokens where a family cuts them up."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(48, 48), (96, 48), (48, 144)]
    return [torch.randint(0, 256, (3, h, w), dtype=torch.uint8, generator=generator) for h, w in sizes]


def alone(model, images, questions, new: int = 6) -> list[str]:
    """Answers of transformers, every question in a run of its own."""
    found = []
    for image, question in zip(images, questions, strict=True):
        inputs = model.inputs([image], [question])
        made = model.module.generate(**inputs, max_new_tokens=new)
        start = 1 if model.module.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        found += model.text_of(made[:, start:])
    return found


def test_answers_are_those_of_transformers_at_any_batch_size(model):
    data = dataset("scenes-pope", n=2)
    expected = alone(model, data.images[data.rows["image"].tolist()], data.rows["question"], new=4)
    for size in (1, 7, 64):
        assert generate(model, data, max_new_tokens=4, batch_size=size)["prediction"].tolist() == expected


@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "florence2"])
def test_questions_share_the_features_of_images_of_several_shapes(models, name, images):
    model = models[name]
    asked = [QUESTIONS[i % 3] for i in range(len(WHICH))]
    prompts = model.prepare(images, asked, WHICH)
    features = model.features(prompts.pixels)
    assert len(features) == len(images)
    expected = alone(model, [images[i] for i in WHICH], asked)
    for share in (False, True):
        assert model.text_of(decode(model, prompts, features, max_new_tokens=6, share=share).tokens) == expected
    assert len(set(expected)) > 2


def test_tiles_and_deepstack_features_share_a_prefix_too(models, images):
    for name in ("qwen3_vl", "internvl", "idefics3 in tiles"):
        prompts = models[name].prepare(images, QUESTIONS * 2, WHICH)
        assert prefix.read_images(models[name], prompts, models[name].features(prompts.pixels)) is not None, name


# --- Florence-2


def test_florence_reads_the_prompt_that_its_processor_makes(models):
    model, image = models["florence2"], dataset("scenes", n=1).images
    own = model.processor(images=list(image), text=["how many"], return_tensors="pt")
    made = model.inputs(image, ["how many"])
    assert torch.equal(made["input_ids"], own["input_ids"]) and torch.equal(made["pixel_values"], own["pixel_values"])


def test_florence_s_encoder_and_decoder_are_quantized_and_have_no_cache_to_round(models):
    model, data = models["florence2"], dataset("scenes-vqa", n=2)
    made = quantize(model, "w8a8-smoothquant", data)
    assert set(quantization_report(made)["layer"]) == set(model.towers()["decoder"])
    assert any(".encoder." in n for n in model.towers()["decoder"])
    assert (generate(made, data, max_new_tokens=2, baseline=model)["kl"] < 1).all()
    with pytest.raises(EdgelibError, match="2 layers and 6 attention blocks"):
        kv_cache(model, "int8-token")


# --- PaliGemma


@pytest.fixture
def paligemma(models):
    return models["paligemma"]


def test_paligemma_reads_image_bos_question_and_line_feed(paligemma, images):
    ids = paligemma.inputs(images[:1], ["how many"])["input_ids"][0]
    words = paligemma.tokenizer
    assert (ids[:16] == paligemma.image_token).all() and ids[16] == words.bos_token_id
    assert ids[17:].tolist() == words("how many\n", add_special_tokens=False).input_ids


def test_paligemma_s_prompt_looks_ahead_and_its_answers_do_not(paligemma, images):
    prompts = paligemma.prepare(images[:2], QUESTIONS[:2], None, ["yes", "no red"])
    kinds, mask = prompts.texts["token_type_ids"], prompts.texts["attention_mask"]
    assert kinds.sum(dim=1).tolist() == [1, 2], "answers are read word by word"
    assert mask.tolist()[0][:4] == [0] * 4 and mask[1].all()
    shared = paligemma.prepare(images, QUESTIONS, torch.tensor([0, 0, 1]))
    assert prefix.read_images(paligemma, shared, paligemma.features(shared.pixels)) is None


def test_paligemma_is_calibrated_with_and_without_images(paligemma):
    data = dataset("scenes-vqa", n=2)
    seen = calibrate(paligemma, data)
    assert not set(paligemma.towers()["decoder"]) - set(seen.layers)
    blind = calibrate(paligemma, calibration_set("text-only", 4, source=data))
    assert set(blind.unreached) == set(paligemma.towers()["vision"])


@pytest.mark.parametrize("spec", ["w8a8-smoothquant", "w4a16-awq-g8", "w4a8-mbq-g8"])
def test_paligemma_s_decoder_is_quantized(paligemma, spec):
    data = dataset("scenes-vqa", n=2)
    made = quantize(paligemma, spec, data)
    assert set(quantization_report(made)["layer"]) == set(paligemma.towers()["decoder"])
    kl = generate(made, data, max_new_tokens=2, baseline=paligemma)["kl"]
    assert (kl > 0).any() and (kl < 1).all()


@pytest.mark.parametrize("name", ["paligemma", "paligemma 2"])
def test_paligemma_answers_from_a_cache_of_numbers(models, name):
    model, data = models[name], dataset("scenes-pope", n=2)
    rounded = generate(model, data, max_new_tokens=4, cache_factory=kv_cache(model, "int8-token"), baseline=model)
    assert (rounded["kl"] < 1e-2).all() and (rounded["kl"] > 0).any()


# --- the seam


def test_every_file_of_a_family_is_registered_and_types_are_told_apart():
    found = [importlib.import_module(f"{families.__name__}.{m.name}") for m in pkgutil.iter_modules(families.__path__)]
    registered = (*writers.WRITERS, *duals.DUAL_ENCODERS)
    assert [m.FAMILY for m in found if hasattr(m, "FAMILY")] == sorted(registered, key=lambda f: f.types[0])
    for kind in (writers.WRITERS, duals.DUAL_ENCODERS):  # one type may be a writer and a dual encoder, by its class
        types = [name for family in kind for name in family.types]
        assert len(types) == len(set(types))


FAMILIES = [writers.CHAT, *writers.WRITERS, *duals.DUAL_ENCODERS]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: "-".join(family.types) or "chat")
def test_processes_share_a_family(family):
    assert pickle.loads(pickle.dumps(family)) == family


@pytest.mark.parametrize("name", ["scenes-vlm", "scenes-clip", "scenes-vit"])
def test_processes_share_a_model(name):
    assert pickle.loads(ForkingPickler.dumps(load(name))).fingerprint == load(name).fingerprint


def test_models_without_a_file_of_their_own_are_chat_models(models):
    assert models["internvl"].family is writers.CHAT and models["paligemma"].family is not writers.CHAT


def test_a_family_is_one_value(paligemma, monkeypatch, images):
    """A prompt of one's own needs nothing but a value in the list."""
    asks = Family(
        types=("paligemma",),
        prompt=lambda processor, questions, image: [f"<bos>answer en {q}" for q in questions],
        read=paligemma.family.read,
        encode=None,
    )
    monkeypatch.setattr(writers, "WRITERS", (asks,))
    model = GenerativeModel("mine", paligemma.module, paligemma.processor)
    assert model.prompts(["how many"]) == ["<bos>answer en how many"]
    prompts = model.prepare(images[:1], ["how many"])
    assert not model.encodes_apart and not prompts.pixels and "pixel_values" in prompts.texts


def test_an_unknown_family_says_which_are_known_and_how_to_add_one(tmp_path):
    folder = vlm_folders.paligemma(tmp_path / "unknown")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "palligemma"}))
    with pytest.raises(EdgelibError) as error:
        load(folder)
    for part in (
        "'palligemma' (did you mean 'paligemma'?)",
        "blip, florence2, paligemma, or of the",
        "siglip2",
        "CONTRIBUTING",
    ):
        assert part in str(error.value)


def test_a_family_that_does_not_chat_says_how_to_add_it(tmp_path):
    folder = vlm_folders.internvl(tmp_path / "mute")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(EdgelibError, match="how a internvl wants to be asked.*add a file to edgelib/models/families"):
        load(folder)


def test_a_class_that_does_not_write_has_no_loader():
    ranks = {"model_type": "blip", "architectures": ["BlipForImageTextRetrieval"]}
    answers = {"model_type": "blip", "architectures": ["BlipForQuestionAnswering"]}
    assert writers.loader_of(ranks) is None
    assert writers.loader_of(answers) == "AutoModelForVisualQuestionAnswering"
    assert writers.family_of("blip").image_token(SimpleNamespace(image_token_id=3)) is None
