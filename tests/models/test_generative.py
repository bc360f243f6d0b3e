"""Models that write: four families from random folders, the same answers however they are batched or encoded."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import transformers
import vlm_folders
from transformers import DynamicCache

import edgelib
from edgelib import EdgelibError, calibration_set, dataset, evaluate, load, quantize, with_outliers
from edgelib.data.questions import QuestionSet
from edgelib.infer.decode import decode, yes_margin
from edgelib.infer.generate import generate
from edgelib.observe.calibrate import calibrate
from edgelib.observe.tallies import MODALITIES
from edgelib.observe.watch import norm_readers, observing
from edgelib.quant.report import quantization_report
from edgelib.quant.scheme import scheme, scheme_for
from edgelib.tasks.pope import POPE

FAMILIES = {f.__name__: f for f in (vlm_folders.qwen2_vl, vlm_folders.idefics3, vlm_folders.llava_onevision)}
FAMILIES["blip"] = vlm_folders.blip
TEXTS = ["is there a red circle in the image", "how many", "what colour is the circle or the red or the"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """One saved model of each family."""
    root = tmp_path_factory.mktemp("models")
    return {name: write(root / name) for name, write in FAMILIES.items()}


@pytest.fixture(params=FAMILIES)
def model(request, folders):
    return load(folders[request.param])


@pytest.fixture
def qwen(folders):
    return load(folders["qwen2_vl"])


def questions(n_images: int = 4, texts=TEXTS) -> QuestionSet:
    images = torch.randint(0, 256, (n_images, 3, 40, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    rows = [
        dict(item=f"{i}/{j}", image=i, image_id=f"scene {i}", question=text, category="random", answer="yes")
        for j, text in enumerate(texts)
        for i in range(n_images)
    ]
    return QuestionSet("toy", POPE, pd.DataFrame(rows), images)


def one_by_one(model, data: QuestionSet, new: int) -> list[str]:
    """Answers of the processor and `generate` of transformers alone."""
    found = []
    for question, image in zip(data.rows["question"], data.rows["image"], strict=True):
        made = model.module.generate(**model.inputs(data.images[[image]], [question]), max_new_tokens=new)
        start = 1 if model.image_token is None else model.inputs(data.images[[image]], [question])["input_ids"].shape[1]
        found += model.text_of(made[:, start:])
    return found


def test_answers_are_those_of_plain_generate_at_any_batch_size(model):
    data = questions()
    alone = one_by_one(model, data, 8)
    for size in (1, 5, 16):
        assert generate(model, data, max_new_tokens=8, batch_size=size)["prediction"].tolist() == alone
    assert len(set(alone)) > 1


def test_every_image_is_encoded_once_whatever_is_asked(model, monkeypatch):
    if not model.encodes_apart:
        pytest.skip("BLIP reads the image with each question")
    data, seen = questions(), []
    encode = type(model).features
    monkeypatch.setattr(type(model), "features", lambda self, pixels: seen.append(encode(self, pixels)) or seen[-1])
    generate(model, data, max_new_tokens=1, batch_size=6)
    assert sum(len(features) for features in seen) == len(data.images)


def test_copies_with_the_same_vision_tower_share_its_features(qwen):
    data = questions()
    cheap, other = quantize(qwen, "w8a16"), quantize(qwen, "w8a8-minmax-vision")
    assert cheap.vision_key == qwen.vision_key != other.vision_key
    alone = generate(cheap, data, max_new_tokens=4)
    together = generate(cheap, data, max_new_tokens=4, baseline=qwen)
    pd.testing.assert_frame_equal(alone.drop(columns="kl"), together.drop(columns="kl"))


def test_the_numbers_of_an_answer_are_those_of_a_forward_over_it(qwen):
    data = questions(2)
    prompts = qwen.prepare(data.images, list(data.rows["question"][:2]))
    made = decode(qwen, prompts, qwen.features(prompts.pixels), max_new_tokens=5)
    inputs = qwen.inputs(data.images, list(data.rows["question"][:2]))
    width = inputs["input_ids"].shape[1]
    added = {"input_ids": made.tokens, "attention_mask": torch.ones_like(made.tokens)}
    added["mm_token_type_ids"] = torch.zeros_like(made.tokens)
    full = {k: torch.cat([v, added[k]], 1) if k in added else v for k, v in inputs.items()}
    logp = qwen.module(**full).logits[:, width - 1 : -1].log_softmax(-1)
    steps = logp.gather(2, made.tokens[:, :, None])[..., 0]
    inside = torch.arange(5) < made.length[:, None]
    torch.testing.assert_close(made.logprob, (steps * inside).sum(1), atol=1e-4, rtol=0)
    best = logp[:, 0].topk(2).values
    torch.testing.assert_close(made.margin, best[:, 0] - best[:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(made.first, logp[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_rotary_frequencies_are_those_of_transformers_in_every_dtype(folders, qwen, dtype):
    build = transformers.AutoModelForImageTextToText
    theirs = dict(build.from_pretrained(folders["qwen2_vl"], dtype=dtype).named_buffers())
    rounded = quantize(qwen, "fp16" if dtype == torch.float16 else "bf16").module
    assert any(name.endswith("inv_freq") for name in theirs)
    for name, buffer in load(folders["qwen2_vl"], dtype=dtype).module.named_buffers():
        assert buffer.dtype == theirs[name].dtype and torch.equal(buffer, theirs[name]), name
        assert torch.equal(rounded.get_buffer(name), theirs[name]), name


def test_the_yes_margin_is_its_formula(qwen):
    logp = torch.randn(3, len(qwen.tokenizer), generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    ids = {word: qwen.tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("yes", " yes", "no", " no")}
    p = logp.exp()
    odds = (p[:, ids["yes"]] + p[:, ids[" yes"]]) / (p[:, ids["no"]] + p[:, ids[" no"]])
    torch.testing.assert_close(yes_margin(qwen, logp), odds.log())


def test_an_answer_stops_at_its_end_and_one_cut_short_is_marked(qwen):
    data = questions()
    rows = generate(qwen, data, max_new_tokens=24)
    assert rows["ended"].any() and not rows["ended"].all()
    assert (rows.loc[~rows["ended"], "tokens"] == 24).all() and (rows["tokens"] >= 1).all()
    longer = generate(qwen, data, max_new_tokens=40)
    whole = rows["ended"]
    assert (longer["prediction"][whole] == rows["prediction"][whole]).all()
    assert longer["logprob"][whole].to_numpy() == pytest.approx(rows["logprob"][whole].to_numpy(), abs=1e-4)


def test_a_cache_of_ones_own_is_made_for_every_batch_and_used(qwen):
    made = []

    class Noted(DynamicCache):
        def __init__(self):
            super().__init__()
            self.updates = 0
            made.append(self)

        def update(self, *args, **kwargs):
            self.updates += 1
            return super().update(*args, **kwargs)

    data = questions()
    rows = generate(qwen, data, max_new_tokens=3, batch_size=6, cache_factory=Noted)
    assert len(made) == 2 and all(cache.updates for cache in made)
    assert rows["prediction"].equals(generate(qwen, data, max_new_tokens=3)["prediction"])


def test_corruptions_change_what_is_seen_and_evaluate_says_so(qwen):
    data = questions()
    clean, fog = evaluate(qwen, data), evaluate(qwen, data, corruption="fog", severity=5, baseline=qwen)
    assert {"prediction", "score", "said", "parsed", "margin", "kl"} <= set(fog)
    assert (clean["margin"] != fog["margin"]).all() and (fog["kl"] == 0).all() and (fog["severity"] == 5).all()
    assert evaluate(qwen, data.subset([7, 2]))["prediction"].tolist() == clean["prediction"][[7, 2]].tolist()


def test_the_decoder_is_quantized_unless_a_scheme_says_otherwise(model):
    towers = model.towers()
    before = {n: p.clone() for n, p in model.module.named_parameters()}

    def rounded(spec):
        return set(quantization_report(quantize(model, spec))["layer"])

    assert rounded("w8a8-minmax") == set(towers["decoder"])
    assert rounded("w8a8-minmax-vision") == {*towers["decoder"], *towers["vision"]}
    assert rounded({"preset": "w8a16", "targets": ["head"]}) == set(towers["head"])
    assert rounded({"preset": "w8a16", "targets": ["vision"], "exclude": [towers["vision"][0]]}) == {
        *towers["vision"][1:]
    }
    every = [n for n, layer in model.module.named_modules() if isinstance(layer, torch.nn.Linear)]
    assert sorted(n for tower in towers.values() for n in tower) == sorted(every)
    assert all(torch.equal(p, before[n]) for n, p in model.module.named_parameters())


def test_the_name_of_a_scheme_carries_the_vision_tower():
    plan = scheme("w4a8-awq-vision")
    assert plan.name == "w4a8-awq-vision" and plan.label.endswith("vision tower too")
    assert plan.targets == ("decoder", "vision") and scheme_for(SimpleNamespace(), plan) is plan


def test_outliers_and_migrations_go_through_the_norms_of_every_family(model):
    wide = model.with_module(model.module.double())
    data = questions(2)
    prompts = wide.prepare(data.images, TEXTS[:1] * 2)
    first = decode(wide, prompts, wide.features(prompts.pixels) if prompts.pixels else None, max_new_tokens=1).first
    twin = with_outliers(wide, "weight", 8.0)
    same = decode(twin, prompts, twin.features(prompts.pixels) if prompts.pixels else None, max_new_tokens=1).first
    torch.testing.assert_close(first, same, atol=1e-5, rtol=0)
    if model.image_token is not None:
        decoder = [n for n in norm_readers(model.module, model.probe) if "vis" not in n]
        assert len(decoder) == 4, "two norms in each of two layers"


def test_a_norm_that_adds_one_to_its_weight_is_left_alone():
    class ShiftedRMSNorm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(4))

        def forward(self, x):
            return x * (1.0 + self.weight)

    body = torch.nn.Sequential(ShiftedRMSNorm(), torch.nn.Linear(4, 4))
    assert norm_readers(body, lambda: body(torch.ones(2, 4))) == {}


def test_calibration_reads_every_token_once_and_none_that_is_padding(qwen):
    data = questions(3)
    seen = calibrate(qwen, data, needs=["rows"], row_limit=10_000)
    layer = seen.layers["model.language_model.layers.0.mlp.down_proj"]
    alone = [qwen.inputs(data.images[[i]], [q]) for i, q in zip(data.rows["image"], data.rows["question"], strict=True)]
    answer = len(qwen.tokenizer("yes").input_ids)
    assert layer.tokens == sum(x["input_ids"].numel() + answer for x in alone)
    counts = layer.row_modalities.bincount(minlength=3)
    assert counts[MODALITIES.index("image")] == sum((x["input_ids"] == qwen.image_token).sum() for x in alone)
    assert counts[MODALITIES.index("unknown")] == 0
    other = calibrate(qwen, data.subset([8, 1, 0, 5, 4, 3, 2, 7, 6]), batch_size=2)
    torch.testing.assert_close(
        other.layers["model.visual.merger.mlp.0"].abs_mean, seen.layers["model.visual.merger.mlp.0"].abs_mean
    )


def test_text_only_calibration_leaves_the_vision_tower_unseen(qwen):
    seen = calibrate(qwen, calibration_set("text-only", 4, source=questions()))
    assert set(seen.unreached) == set(qwen.towers()["vision"])


def test_calibration_restores_the_model(qwen):
    before = qwen.fingerprint
    calibrate(qwen, questions(2))
    assert load_again(qwen).fingerprint == before
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in qwen.module.modules())


def load_again(model):
    return model.with_module(model.module)


@pytest.mark.parametrize("config", ["w4a16-awq-g32", "w8a8-smoothquant", "fp8", "nvfp4", "w4a8-mbq-g32"])
def test_every_method_quantizes_a_decoder(qwen, config):
    data = questions()
    made = quantize(qwen, config, data)
    assert len(quantization_report(made)) == len(qwen.towers()["decoder"])
    rows = generate(made, data, max_new_tokens=2, baseline=qwen)
    assert (rows["kl"] > 0).any() and (rows["kl"] < 1).all()


# --- what goes wrong


def changed(folder, tmp_path, name="model"):
    """A copy of a folder whose files may be edited."""
    return shutil.copytree(folder, tmp_path / name)


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def says(call, *args, **kwargs) -> str:
    with pytest.raises(EdgelibError) as error:
        call(*args, **kwargs)
    return str(error.value)


def test_a_folder_without_chat_template_or_place_for_the_image_is_refused(folders, tmp_path):
    folder = changed(folders["qwen2_vl"], tmp_path)
    (folder / "chat_template.jinja").write_text(vlm_folders.CHAT.replace("@IMAGE@", ""))
    assert "leaves out the image" in says(load, folder)
    (folder / "chat_template.jinja").unlink()
    assert "has no chat template" in says(load, folder)


def test_an_image_token_that_the_tokenizer_lacks_is_refused(folders, tmp_path):
    folder = changed(folders["qwen2_vl"], tmp_path)
    edit(folder / "config.json", image_token_id=99_999)
    assert "image token 99999 is not in the tokenizer" in says(load, folder)


def test_families_that_transformers_cannot_load_are_named_with_those_it_can(folders, tmp_path):
    folder = changed(folders["qwen2_vl"], tmp_path)
    edit(folder / "config.json", model_type="qwen9_vl")
    text = says(load, folder)
    assert "'qwen9_vl' (did you mean 'qwen" in text and transformers.__version__ in text and "llava_onevision" in text


def test_missing_weights_processors_and_tokenizers_are_named(folders, tmp_path):
    folder = changed(folders["qwen2_vl"], tmp_path)
    (folder / "processor_config.json").unlink()
    assert "processor" in says(load, folder)
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer" in says(load, folder)
    bare = changed(folders["qwen2_vl"], tmp_path, "bare")
    (bare / "model.safetensors").rename(bare / "pytorch_model.bin")
    assert "pickled weights" in says(load, bare)
    other = changed(folders["qwen2_vl"], tmp_path, "other")
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    config["text_config"].pop("layer_types", None)
    (other / "config.json").write_text(json.dumps(config))
    assert "lacks weights" in says(load, other)


def test_code_of_a_repository_never_runs(folders, tmp_path):
    folder = changed(folders["qwen2_vl"], tmp_path)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit(folder / "config.json", auto_map={"AutoModelForImageTextToText": "evil.Evil"})
    load(folder)
    assert not (tmp_path / "ran").exists()


def test_prompts_longer_than_the_context_are_named(tmp_path):
    model = load(vlm_folders.qwen2_vl(tmp_path / "short", context=40))
    text = says(generate, model, questions(1))
    assert f"question {TEXTS[2]!r}" in text and "the 40 that short reads" in text


def test_broken_weights_are_told_by_their_answers(qwen):
    broken = qwen.with_module(edgelib.quantize(qwen, "fp32").module)
    broken.module.lm_head.weight.data[0] = torch.nan
    assert "scores of 3 answers are NaN or infinite" in says(generate, broken, questions(1))


def test_classifiers_and_questions_do_not_mix(qwen):
    assert "take labelled images" in says(evaluate, load("scenes-clip"), questions(1))
    assert "load a set such as scenes-vqa" in says(evaluate, qwen, dataset("scenes", n=2))


def test_sampling_settings_of_a_folder_are_dropped(folders, tmp_path):
    folder = changed(folders["qwen2_vl"], tmp_path)
    edit(folder / "generation_config.json", do_sample=True, temperature=5.0, repetition_penalty=3.0, top_k=3)
    data = questions(2)
    plain = generate(load(folders["qwen2_vl"]), data, max_new_tokens=4)
    assert generate(load(folder), data, max_new_tokens=4)["prediction"].equals(plain["prediction"])


def test_fingerprints_follow_what_decides_an_answer(folders, tmp_path):
    model = load(folders["qwen2_vl"])
    assert model.fingerprint == load(changed(folders["qwen2_vl"], tmp_path)).fingerprint
    template = tmp_path / "model" / "chat_template.jinja"
    template.write_text("Be brief. " + template.read_text())
    assert model.fingerprint != load(tmp_path / "model").fingerprint != quantize(model, "w8a16").fingerprint


def test_watching_sees_the_same_answer(qwen):
    prompts = qwen.prepare(questions(1).images, TEXTS[:1])
    with observing(qwen.module):
        seen = decode(qwen, prompts, qwen.features(prompts.pixels), max_new_tokens=3)
    plain = decode(qwen, prompts, qwen.features(prompts.pixels), max_new_tokens=3)
    assert torch.equal(seen.tokens, plain.tokens)
