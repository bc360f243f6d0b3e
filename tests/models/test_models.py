"""Loading models: one code path for embedded names and folders, refusal of what is unsafe, damaged or unknown."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor

import edgelib
from edgelib.errors import EdgelibError
from edgelib.kernels.table import with_kernel
from edgelib.models.load import EMBEDDED, embedded_models, load, model_folder
from edgelib.models.preprocess import Preprocess, choose_resample, from_transformers


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded CLIP that a test may damage."""
    return shutil.copytree(EMBEDDED / "scenes-clip", tmp_path / "clip")


@pytest.mark.parametrize("name", embedded_models())
def test_embedded_models_are_ordinary_folders(name, tmp_path):
    data = edgelib.dataset("scenes", n=8)
    copy = shutil.copytree(EMBEDDED / name, tmp_path / "elsewhere")
    first, second = load(name), load(copy)
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.encode_images(data.images), second.encode_images(data.images))


@pytest.mark.parametrize("name", embedded_models())
def test_embedded_models_know_their_world(name):
    data = edgelib.dataset("scenes", split="validation", n=200)
    card = (EMBEDDED / name / "README.md").read_text()
    claimed = float(re.search(r"split `test`: (0\.\d+)", card)[1])
    assert edgelib.evaluate(load(name), data).correct.mean() == pytest.approx(claimed, abs=0.1)  # over 3 sd of 200


@pytest.mark.parametrize("name", embedded_models() + embedded_models(writes=True))
def test_embedded_models_are_small_half_precision_and_described(name):
    files = list((EMBEDDED / name).iterdir())
    assert sum(f.stat().st_size for f in files) < 12e6
    assert all(w.dtype == torch.float16 for w in load_file(EMBEDDED / name / "model.safetensors").values())
    import hashlib

    digest = hashlib.sha256((EMBEDDED / name / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (EMBEDDED / name / "README.md").read_text()


def test_features_have_unit_length_and_do_not_depend_on_the_batch():
    model, images = load("scenes-clip"), edgelib.dataset("scenes", n=9).images
    whole = model.encode_images(images)
    assert torch.allclose(whole.norm(dim=1), torch.ones(9))
    assert torch.allclose(model.encode_images(images[4:5]), whole[4:5], atol=1e-6)


def test_class_vectors_average_the_prompts():
    model = load("scenes-clip")
    two = model.class_vectors(["star", "ring"], ["a {}.", "a photo of a {}."])
    parts = torch.stack([model.encode_text([f"a {c}.", f"a photo of a {c}."]).mean(dim=0) for c in ("star", "ring")])
    assert torch.allclose(two, torch.nn.functional.normalize(parts, dim=1), atol=1e-6)


def test_unknown_names_say_what_there_is():
    with pytest.raises(EdgelibError, match="no model 'scenes-clp' .did you mean 'scenes-clip'.*owner/name"):
        load("scenes-clp")


def test_a_hub_that_cannot_be_reached_says_how_to_use_a_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        EdgelibError, match="'nobody/nothing-here' is not in the local cache.*give the path of that folder"
    ):
        load("nobody/nothing-here", offline=True)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(EdgelibError, match="no .safetensors file: it has pytorch_model.bin, pickled weights"):
        load(folder)


def test_truncated_weights_are_named(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(EdgelibError, match="model.safetensors is damaged or cut short"):
        load(folder)


def test_weights_that_are_not_finite_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"][3, 5] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EdgelibError, match="tensor visual_projection.weight has 1 values that are NaN"):
        load(folder)


def test_missing_weights_are_not_replaced_by_random_ones(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EdgelibError, match="lacks weights .*visual_projection.weight"):
        load(folder)


def test_another_family_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(EdgelibError, match="holds a 'gpt2' .*; zero-shot classification needs one of clip, siglip"):
        load(folder)


def test_a_folder_without_config_is_no_model(tmp_path):
    with pytest.raises(EdgelibError, match="has no config.json"):
        load(tmp_path)


def test_a_folder_without_preprocessor_is_refused(folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(EdgelibError, match="has no preprocessor_config.json"):
        load(folder)


def test_a_processor_that_transformers_5_saved_is_read(folder, tmp_path):
    """It has one processor_config.json, in which the settings for images are nested."""
    model = load(folder)
    whole = transformers.CLIPProcessor(CLIPImageProcessor.from_pretrained(folder), model.tokenizer)
    (folder / "preprocessor_config.json").unlink()
    whole.save_pretrained(folder)
    assert not (folder / "preprocessor_config.json").is_file()
    assert load(folder).preprocess == model.preprocess
    (folder / "preprocessor_config.json").write_text("{}")  # what the other holds comes first, as in transformers
    assert load(folder).preprocess == model.preprocess


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"image_processor_type": "FlavaImageProcessor"}, "asks for a FlavaImageProcessor, whose steps are not done"),
        ({"do_pad": True}, "asks for do_pad, which is not done here"),
        ({"size": None}, "size is None, but must be a number of pixels"),
        ({"max_num_patches": 16}, "patch_size and max_num_patches are None and 16"),
    ],
    ids=["another kind", "another step", "no size", "no patch"],
)
def test_what_is_not_done_here_is_refused_rather_than_left_out(folder, wrong, said):
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
    with pytest.raises(EdgelibError, match=said):
        load(folder)


@pytest.fixture
def naflex(tmp_path):
    """A SigLIP 2 that reads images of any shape in at most 16 patches of 12 pixels."""
    torch.manual_seed(0)
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", ".", *"abcdefghijklmnopqrstuvwxyz"]
    words = transformers.Siglip2Tokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[], padding_side="right")
    tower = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    text = tower | dict(vocab_size=len(words), max_position_embeddings=64, pad_token_id=0)
    vision = tower | dict(num_patches=16, patch_size=12)
    config = transformers.Siglip2Config(text_config=text, vision_config=vision)
    transformers.Siglip2Model(config).save_pretrained(tmp_path)
    transformers.Siglip2ImageProcessor(patch_size=12, max_num_patches=16).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("shape", [(48, 48), (40, 90), (200, 20)], ids=str)
def test_images_of_any_shape_are_read_as_transformers_reads_them(naflex, shape):
    model, theirs = load(naflex), transformers.Siglip2ImageProcessor.from_pretrained(naflex)
    images = torch.randint(0, 256, (3, 3, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = model.module.get_image_features(**theirs(list(images), return_tensors="pt")).pooler_output
    found = model.encode_images(images)
    assert torch.allclose(found, torch.nn.functional.normalize(expected, dim=1), atol=1e-5)
    assert len({round(float(x), 4) for x in found[:, 0]}) == 3


def test_a_model_of_patches_classifies_calibrates_and_is_quantized(naflex):
    model, data = load(naflex), edgelib.dataset("scenes", n=6)
    plan = {"preset": "w8a8-smoothquant", "exclude": ["vision_model.head.attention.out_proj"]}
    assert len(edgelib.evaluate(edgelib.quantize(model, plan, data), data)) == 6
    assert edgelib.with_outliers(model, "activation", 8.0).encode_images(data.images).isfinite().all()
    with pytest.raises(EdgelibError, match="reads patches of images of any shape, which ONNX Runtime"):
        with_kernel(model, "onnx-fp32")


def test_a_model_of_patches_is_packed_and_comes_back(naflex, tmp_path):
    model, images = load(naflex), edgelib.dataset("scenes", n=2).images
    edgelib.save_packed(model, tmp_path / "packed")
    back = edgelib.load_packed(tmp_path / "packed")
    assert back.preprocess == model.preprocess and torch.equal(back.encode_images(images), model.encode_images(images))


@pytest.mark.parametrize("device", ["foo", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(EdgelibError, match=f"there is no device '{device}' on this machine; choose from cpu"):
        load("scenes-clip", device=device)


def test_without_a_gpu_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EdgelibError, match="no device 'cuda'"):
        load("scenes-clip", device="cuda")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, "half", "int8", 16], ids=str)
def test_a_dtype_that_holds_no_weights_is_refused(dtype):
    with pytest.raises(EdgelibError, match="dtype .* cannot hold a model's weights; choose from torch.float32, "):
        load("scenes-clip", dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16"], ids=str)
def test_a_dtype_may_be_named(dtype):
    assert load("scenes-clip", dtype=dtype).module.dtype == torch.bfloat16


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(b"{", "is not valid JSON", id="torn"),
        pytest.param(b"", "is not valid JSON", id="empty"),
        pytest.param(b"\xff\xfe", "is not valid JSON", id="not text"),
        pytest.param(b"[1]", "must hold a JSON object {...}, but it holds a list", id="list"),
        pytest.param(b"null", "must hold a JSON object {...}, but it holds a NoneType", id="null"),
    ],
)
def test_a_broken_configuration_is_named(folder, file, text, said):
    (folder / file).write_bytes(text)
    with pytest.raises(EdgelibError) as caught:
        load(folder)
    assert f"{file} {said}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_mean": None},
        {"image_mean": [0.5, 0.5]},
        {"image_std": "0.5"},
        {"image_std": [0.5, 0.5, 0]},
        {"size": {"height": 32}},
        {"size": "small"},
        {"do_center_crop": True, "crop_size": [32, 32]},
        {"resample": [3]},
        {"resample": None},
    ],
    ids=lambda wrong: "-".join(wrong) + f"={list(wrong.values())[-1]}",
)
def test_a_wrong_preprocessing_entry_is_named(folder, wrong):
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
    with pytest.raises(EdgelibError, match="resample mode" if "resample" in wrong else f"{list(wrong)[-1]} is "):
        load(folder)


def test_missing_means_are_named(folder):
    file = folder / "preprocessor_config.json"
    config = json.loads(file.read_text())
    del config["image_mean"]
    file.write_text(json.dumps(config))
    with pytest.raises(EdgelibError, match="image_mean is None, but must be three numbers"):
        load(folder)


def test_a_folder_without_tokenizer_is_refused(folder):
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    (folder / "vocab.json").write_text("{}")
    with pytest.raises(EdgelibError, match="has no tokenizer: it needs tokenizer.json, or vocab.json and merges.txt"):
        load(folder)


def test_a_broken_tokenizer_is_one_line(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(EdgelibError, match="the tokenizer of .* does not load") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_an_error_without_text_is_still_reported(folder, monkeypatch):
    from transformers import AutoModel

    def fail(*args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr(AutoModel, "from_pretrained", fail)
    with pytest.raises(EdgelibError, match="does not load as a clip model: RuntimeError: no details"):
        load(folder)


@pytest.mark.parametrize("kind", [str, Path], ids=["text", "Path"])
def test_a_tilde_is_the_home_of_the_user(folder, monkeypatch, kind):
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert load(kind("~/clip")).name == "clip"
    with pytest.raises(EdgelibError, match="no model '~/clap'"):
        load(kind("~/clap"))


def test_a_prompt_longer_than_the_context_is_named():
    with pytest.raises(EdgelibError, match="is longer than the 32 tokens"):
        load("scenes-clip").encode_text(["a photo of a very " + "very " * 60 + "small star."])


def test_a_supervised_baseline_needs_the_classes():
    with pytest.raises(EdgelibError, match="has no 'airplane', 'ship'"):
        load("scenes-vit").class_vectors(["airplane", "ship"], ["a photo of a {}."])


def test_embedded_names_win_over_hub_ids_and_paths_over_both(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_folder("scenes-clip") == EMBEDDED / "scenes-clip"


@pytest.mark.parametrize("shape", [(32, 32), (300, 200), (224, 224), (100, 333)], ids=str)
def test_preprocessing_is_that_of_transformers(shape, tmp_path):
    reference = CLIPImageProcessor()  # CLIP's defaults: short side 224, bicubic, centre crop
    reference.save_pretrained(tmp_path)
    noise = torch.randint(0, 256, (3, 9, 9), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = Image.fromarray(noise.permute(1, 2, 0).numpy()).resize(shape[::-1], Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(__import__("numpy").array(image)).permute(2, 0, 1)[None]
    ours = from_transformers(tmp_path)(pixels)
    theirs = reference(image, return_tensors="pt")["pixel_values"]
    levels = (ours - theirs).abs() * torch.tensor(reference.image_std)[:, None, None] * 255
    assert ours.shape == theirs.shape == (1, 3, 224, 224) and levels.max() <= 2.01


def test_unknown_resampling_is_refused():
    with pytest.raises(EdgelibError, match="unknown resample mode '7'"):
        choose_resample(7)


def test_preprocessing_keeps_images_of_the_right_size():
    same = Preprocess((4, 6), None, (0.5,) * 3, (0.5,) * 3, choose_resample("bicubic"))
    images = torch.arange(72, dtype=torch.uint8).view(1, 3, 4, 6)
    assert torch.allclose(same(images), images / 127.5 - 1, atol=1e-6) and same.size == (4, 6)
