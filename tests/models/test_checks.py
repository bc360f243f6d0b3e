"""What a folder must be to count as a model: no weight too many or too few, none quantized already, packages named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import vlm_folders
from safetensors.torch import load_file, save_file

from edgelib import EdgelibError, load, quantize
from edgelib.files.compressed_tensors import save_compressed_tensors
from edgelib.files.pack import save_packed
from edgelib.models.checks import reason_of
from edgelib.models.load import EMBEDDED, require_loadable


def copy_of(name: str, tmp_path: Path) -> Path:
    return shutil.copytree(EMBEDDED / name, tmp_path / name)


@pytest.fixture
def clip(tmp_path):
    return copy_of("scenes-clip", tmp_path)


def rewrite_config(folder: Path, change) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


def rewrite_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# --- weights without a place, places without a weight

CONFIGS = {
    "fewer vision layers": ("scenes-clip", lambda c: c["vision_config"].update(num_hidden_layers=2), r"32 in all"),
    "fewer text layers": ("scenes-clip", lambda c: c["text_config"].update(num_hidden_layers=1), "text_model.encoder"),
    "fewer decoder layers": (
        "scenes-vlm",
        lambda c: c["text_config"].update(num_hidden_layers=1, layer_types=["full_attention"]),
        "layers.1.",
    ),
    "fewer vision blocks": ("scenes-vlm", lambda c: c["vision_config"].update(depth=1), "blocks.1."),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_weights_without_a_place_are_named(case, tmp_path):
    name, change, named = CONFIGS[case]
    folder = copy_of(name, tmp_path)
    rewrite_config(folder, change)
    with pytest.raises(EdgelibError, match="has weights that its config.json has no place for") as caught:
        load(folder)
    assert named in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["scenes-clip", "scenes-vlm"])
def test_one_weight_too_many_is_named(name, tmp_path):
    folder = copy_of(name, tmp_path)
    rewrite_weights(folder, lambda w: w.update({"classifier.weight": torch.zeros(2, 2)}))
    with pytest.raises(EdgelibError, match=r"no place for \(classifier.weight\)"):
        load(folder)


@pytest.mark.parametrize("name", ["scenes-clip", "scenes-vlm"])
def test_places_without_a_weight_are_named(name, tmp_path):
    folder = copy_of(name, tmp_path)
    rewrite_weights(folder, lambda w: [w.pop(key) for key in sorted(w)[:7]])
    with pytest.raises(EdgelibError, match=r"lacks weights that its config.json asks for \(.*7 in all\)"):
        load(folder)


def test_more_layers_than_the_file_holds_are_named(clip):
    rewrite_config(clip, lambda c: c["vision_config"].update(num_hidden_layers=6))
    with pytest.raises(EdgelibError, match=r"lacks weights .*vision_model.encoder.layers.4.*32 in all"):
        load(clip)


def test_weights_of_another_shape_are_named(clip):
    rewrite_config(clip, lambda c: c["vision_config"].update(intermediate_size=8))
    with pytest.raises(
        EdgelibError, match=r"another shape .*fc1.weight: \[512, 128\] for \[8, 128\].*12 in all"
    ) as caught:
        load(clip)
    assert "\n" not in str(caught.value)


TIMM = {
    "one too many": lambda w: w.update({"extra.weight": torch.zeros(2)}),
    "one too few": lambda w: w.pop("norm.weight"),
}


@pytest.mark.parametrize("case", TIMM)
def test_a_timm_folder_is_whole_too(case, tmp_path):
    folder = copy_of("scenes-vit", tmp_path)
    rewrite_weights(folder, TIMM[case])
    with pytest.raises(EdgelibError, match="extra.weight" if case == "one too many" else "norm.weight"):
        load(folder)


def test_what_transformers_says_may_be_left_out_or_is_tied_passes(clip, tmp_path):
    positions = {"vision_model.embeddings.position_ids": torch.arange(65)[None]}
    rewrite_weights(clip, lambda w: w.update(positions))
    assert load(clip).fingerprint == load("scenes-clip").fingerprint
    folder = vlm_folders.qwen2_vl(tmp_path / "tied")
    rewrite_config(
        folder, lambda c: c.update(tie_word_embeddings=True) or c["text_config"].update(tie_word_embeddings=True)
    )
    rewrite_weights(folder, lambda w: w.pop("lm_head.weight"))
    module = load(folder).module
    assert module.lm_head.weight is module.get_input_embeddings().weight


# --- settings with which nothing can be read


def rewrite_processor(folder: Path, **settings) -> None:
    file = folder / "processor_config.json"
    held = json.loads(file.read_text())
    held["image_processor"] |= settings
    file.write_text(json.dumps(held))


RUNS = {
    "patches that do not merge": lambda folder: rewrite_processor(folder, merge_size=3),
    "no whole sections": lambda folder: rewrite_config(
        folder, lambda c: c["text_config"]["rope_parameters"].update(mrope_section=1e30)
    ),
    "half a chat template": lambda folder: (folder / "chat_template.jinja").write_text(
        (folder / "chat_template.jinja").read_text()[:-40]
    ),
}


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    return vlm_folders.qwen2_vl(tmp_path_factory.mktemp("writer") / "qwen2-vl")


@pytest.mark.parametrize("case", RUNS)
def test_a_model_that_cannot_run_is_refused_when_it_is_loaded(case, writer, tmp_path):
    RUNS[case](folder := Path(shutil.copytree(writer, tmp_path / "model")))
    with pytest.raises(EdgelibError, match="cannot read a blank image|chat template of .* does not run") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


# --- checkpoints that are quantized already

METHODS = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"},
    "gptq": {"quant_method": "gptq", "bits": 4},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "mxfp4": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
    "hqq": {"quant_method": "hqq", "quant_config": {"offload_meta": False}},
    "torchao": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}},
    "method that is not named": {"zero_point": True},
}


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["scenes-clip", "scenes-vlm", "scenes-vit"])
def test_a_configuration_that_says_quantized_is_believed(name, method, key, tmp_path):
    folder = copy_of(name, tmp_path)
    rewrite_config(folder, lambda c: c.update({key: METHODS[method]}))
    with pytest.raises(EdgelibError, match=f"is quantized already .*{method}.*load the model that it was made from"):
        load(folder)


NESTED = {
    "a part": lambda said: {"text_config": {"quantization_config": said}},
    "a part of a part": lambda said: {"thinker_config": {"text_config": {"quantization_config": said}}},
    "a part by another name": lambda said: {"language_model": {"compression_config": said}},
    "a list of parts": lambda said: {"towers": [{}, {"quantization_config": said}]},
    "the entry of MLX": lambda said: {"quantization": said},
    "a name alone": lambda said: {"quantization_config": said["quant_method"]},
}


@pytest.mark.parametrize("where", NESTED)
@pytest.mark.parametrize("name", ["scenes-vlm", "scenes-vit"])
def test_so_is_that_of_a_part_however_it_is_nested(name, where, tmp_path):
    folder = copy_of(name, tmp_path)
    rewrite_config(folder, lambda c: c.update(NESTED[where](METHODS["awq"])))
    with pytest.raises(EdgelibError, match="is quantized already .awq"):
        load(folder)


def test_an_empty_entry_says_nothing(clip):
    rewrite_config(clip, lambda c: c.update(quantization_config=None))
    assert torch.equal(load(clip).module.visual_projection.weight, load("scenes-clip").module.visual_projection.weight)


LAYER = "vision_model.encoder.layers.0.mlp.fc1"
TENSORS = {
    "GPTQ or AWQ": {f"{LAYER}.qweight": torch.zeros(4, 4, dtype=torch.int32), f"{LAYER}.scales": torch.ones(1, 4)},
    "compressed-tensors": {f"{LAYER}.weight_packed": torch.zeros(4, 4, dtype=torch.int32)},
    "bitsandbytes": {f"{LAYER}.weight.absmax": torch.ones(4)},
    "int8 of bitsandbytes": {f"{LAYER}.SCB": torch.ones(4)},
    "type I8": {f"{LAYER}.weight": torch.zeros(4, 4, dtype=torch.int8)},
    "type U8": {f"{LAYER}.weight": torch.zeros(4, 1, dtype=torch.uint8)},
    "type I64": {f"{LAYER}.weight": torch.zeros(4, 1, dtype=torch.int64)},
    "type F8_E4M3": {f"{LAYER}.weight": torch.zeros(4, 4).to(torch.float8_e4m3fn)},
    "FP8": {f"{LAYER}.weight_scale_inv": torch.ones(1)},
    "MXFP4": {f"{LAYER}_proj_blocks": torch.zeros(4, 4, dtype=torch.uint8)},
    "HQQ": {f"{LAYER}.W_q": torch.zeros(4, 4, dtype=torch.uint8), f"{LAYER}.zero": torch.zeros(4, 1)},
    "torchao": {f"{LAYER}._weight_qdata": torch.zeros(4, 4, dtype=torch.int8)},
    "ModelOpt": {f"{LAYER}.weight_scale_2": torch.ones(1)},
}


@pytest.mark.parametrize("method", TENSORS)
def test_tensors_give_a_quantized_checkpoint_away_where_its_configuration_is_silent(method, clip):
    rewrite_weights(clip, lambda w: w.update(TENSORS[method]))
    said = "bitsandbytes" if "bitsandbytes" in method else method
    with pytest.raises(EdgelibError, match=f"is quantized already .*{said}.*see {LAYER}"):
        load(clip)


@pytest.mark.parametrize("file", ["quantize_config.json", "quant_config.json", "hf_quant_config.json"])
def test_so_do_the_files_of_tools(file, clip):
    (clip / file).write_text("{}")
    with pytest.raises(EdgelibError, match=f"is quantized already .*{file}"):
        load(clip)


def test_gguf_is_named(clip):
    (clip / "model.safetensors").rename(clip / "model-Q4_K_M.gguf")
    with pytest.raises(EdgelibError, match="is quantized already .GGUF; see model-Q4_K_M.gguf"):
        load(clip)
    with pytest.raises(EdgelibError, match="'model-Q4_K_M.gguf' is no GGUF file, or damaged"):
        load(clip / "model-Q4_K_M.gguf")
    with pytest.raises(EdgelibError, match="config.json' is a file; a model is a folder"):
        load(clip / "config.json")


@pytest.mark.parametrize("name", ["scenes-clip", "scenes-vlm"])
def test_what_edgelib_itself_writes_is_no_baseline(name, tmp_path):
    made = quantize(load(name), "w8a8-minmax")
    exported, packed = tmp_path / "exported", tmp_path / "packed"
    save_compressed_tensors(made, exported)
    with pytest.raises(EdgelibError, match="is quantized already .compressed-tensors, int-quantized"):
        load(exported)
    rewrite_config(exported, lambda c: c.pop("quantization_config"))
    with pytest.raises(EdgelibError, match=r"is quantized already .compressed-tensors; see .*weight_scale"):
        load(exported)
    save_packed(made, packed)
    with pytest.raises(EdgelibError, match="is quantized already .edgelib packed; .*edgelib.load_packed reads it"):
        load(packed)


def test_an_adapter_is_no_model(clip):
    (clip / "adapter_config.json").write_text("{}")
    with pytest.raises(EdgelibError, match="holds an adapter .*merge it"):
        load(clip)


# --- names that do not belong to the weights


@pytest.mark.parametrize("write", [vlm_folders.clip, vlm_folders.qwen2_vl], ids=lambda write: write.__name__)
def test_a_tokenizer_of_another_model_is_told_by_tokens_without_an_embedding(write, tmp_path):
    folder = write(tmp_path / "model")
    more = [f"<extra-{i}>" for i in range(2000)]
    vlm_folders.tokenizer([*vlm_folders.QWEN, *more]).save_pretrained(folder)
    with pytest.raises(EdgelibError, match=r"makes tokens up to 2,\d\d\d, and the model has embeddings of"):
        load(folder)


LABELS = {
    "too few": ["ring", "square"],
    "numbers": list(range(10)),
    "text": "ten shapes",
    "a number": 10,
    "one twice and one left out": {str(i + (i == 9)): f"shape {i}" for i in range(10)},
}


@pytest.mark.parametrize("case", LABELS)
def test_outputs_without_a_name_each_are_refused(case, tmp_path):
    folder = copy_of("scenes-vit", tmp_path)
    rewrite_config(folder, lambda c: c.update(label_names=LABELS[case]))
    with pytest.raises(EdgelibError, match="label_names is .* must be a list of 10 names"):
        load(folder)


# --- packages

SENTENCEPIECE = (
    "SiglipTokenizer requires the SentencePiece library but it was not found in your environment. Check out the "
    "instructions on the\ninstallation page of its repo"
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ImportError(SENTENCEPIECE),
            "needs sentencepiece, which is not installed: pip install 'edgelib\\[families\\]'",
        ),
        (
            ImportError("Package `num2words` is required to run SmolVLM processor."),
            "needs num2words.*pip install num2words",
        ),
        (ModuleNotFoundError("No module named 'einops'", name="einops"), "the package einops.*pip install einops"),
        (ImportError("needs something\nand more"), "not installed: needs something and more"),
        (ValueError("wrong\nvalue"), "^ValueError: wrong value; copy it$"),
    ],
    ids=["sentencepiece", "num2words", "einops", "unknown", "other"],
)
def test_a_package_that_lacks_is_named_with_the_command(error, said):
    import re

    assert re.search(said, reason_of(error, "copy it"))


def test_a_tokenizer_without_its_package_says_how_to_install_it(clip, monkeypatch):
    from transformers import AutoTokenizer

    def fail(*args, **kwargs):
        raise ImportError(SENTENCEPIECE)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(EdgelibError, match=r"needs sentencepiece, .*'edgelib\[families\]'") as caught:
        load(clip)
    assert "\n" not in str(caught.value) and "Check out" not in str(caught.value)


# --- what the files tell before any weight is read


def in_parts(folder: Path, listed: object) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    if listed is not None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))


def sized(folder: Path, **size: object) -> None:
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | size))


TOLD = {
    "a part that is not there": (lambda f: in_parts(f, {"a": "model-00002-of-00002.safetensors"}), "00002-of-00002"),
    "a part elsewhere": (lambda f: in_parts(f, {"a": "../model.safetensors"}), "no ../model.safetensors, which it"),
    "a list of nothing": (lambda f: in_parts(f, {}), 'there is no a "weight_map"'),
    "parts without a list": (lambda f: in_parts(f, None), "has neither model.safetensors nor"),
    "a million layers": (
        lambda f: rewrite_config(f, lambda c: c["text_config"].update(num_hidden_layers=10**6)),
        "num_hidden_layers in config.json is 1000000, but its weights",
    ),
    "images of another size": (lambda f: sized(f, size={"height": 32, "width": 32}), "prepared with 32 x 32 pixels"),
    "images of a million pixels": (lambda f: sized(f, size={"shortest_edge": 10**9}), "size is .*1000000000"),
    "no way to prepare images": (lambda f: (f / "preprocessor_config.json").unlink(), "has no preprocessor_config"),
}


@pytest.mark.parametrize("case", TOLD)
def test_a_folder_that_cannot_load_is_told_from_its_files(case, clip):
    change, said = TOLD[case]
    change(clip)
    with pytest.raises(EdgelibError, match=said):
        require_loadable(clip)


def test_a_model_that_computes_no_number_is_refused(clip):
    rewrite_config(clip, lambda c: c["vision_config"].update(layer_norm_eps=float("nan")))
    with pytest.raises(EdgelibError, match="what it computes is not a number"):
        load(clip)
