"""Packed folders that are not what was written: each is refused in one paragraph, or loads bit-equal."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import Block, Waves, inputs
from safetensors.torch import load_file, save_file
from torchvision.transforms import InterpolationMode
from transformers import CLIPConfig, CLIPModel, GenerationConfig, Qwen2Config, Qwen2ForCausalLM
from vlm_folders import PAD, START, VISION, qwen2_vl, tokenizer

import edgelib
from edgelib.errors import EdgelibError
from edgelib.files.pack import load_packed, save_packed
from edgelib.files.pack_file import COMPUTED, WEIGHTS
from edgelib.files.seal import DESCRIPTION, seal, unsealed
from edgelib.models.preprocess import Preprocess
from edgelib.models.zero_shot import ClipModel
from edgelib.quant.quantize import quantize

FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
OTHER_VALUES = (None, True, 0, -1, 7, 0.5, 1e30, "", "nope", "int8", [], ["x"], {}, {"x": 1})


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny CLIP, packed."""
    torch.manual_seed(0)
    text = VISION | dict(vocab_size=300, max_position_embeddings=16, eos_token_id=2)
    config = CLIPConfig(text_config=text, vision_config=VISION | dict(image_size=8, patch_size=4), projection_dim=8)
    look = Preprocess((8, 8), None, (0.5,) * 3, (0.5,) * 3, InterpolationMode.BILINEAR)
    model = ClipModel("tiny", CLIPModel(config).eval(), look, tokenizer([PAD, START, "<|im_end|>"]))
    return save_packed(quantize(model, "w4a8-minmax"), tmp_path_factory.mktemp("clip") / "packed")


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A tiny Qwen2-VL, packed, and the folder that it was loaded from."""
    folder = tmp_path_factory.mktemp("writer")
    model = edgelib.load(qwen2_vl(folder / "qwen2-vl"))
    return save_packed(quantize(model, "w4a8-minmax"), folder / "packed"), folder / "qwen2-vl"


def copied(folder: Path, out: Path) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    return Path(shutil.copytree(folder, out))


def change(folder: Path, file: str, values: dict, sealed: bool = False) -> None:
    """Change fields of a JSON file, named by dotted paths; sealed: as someone does who packs the folder himself."""
    facts = unsealed(folder) if file == DESCRIPTION and sealed else json.loads((folder / file).read_text())
    for path, value in values.items():
        *steps, last = path.split(".")
        place = facts
        for step in steps:
            place = place[step]
        place[last] = value
    if file == DESCRIPTION and sealed:
        seal(folder, facts)
        return
    known = unsealed(folder) if sealed else None
    (folder / file).write_text(json.dumps(facts))
    if sealed:
        seal(folder, known)


def outcome(folder: Path, **like):
    """Everything that a loaded model computes with, or the error in one paragraph."""
    try:
        model = load_packed(folder, **like)
    except EdgelibError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        return str(error)
    module = getattr(model, "module", model)
    reader = [getattr(model, "preprocess", None), getattr(model, "name", None)]
    if tokens := getattr(model, "tokenizer", None):
        reader += [tokens("a red circle, please")["input_ids"], tokens.get_vocab(), tokens.model_max_length]
    layers = [(name, repr(layer)) for name, layer in module.named_modules()]
    tensors = {**module.state_dict(), **dict(module.named_buffers())}
    return {name: (t.dtype, t.tolist()) for name, t in tensors.items()}, layers, module.config.to_dict(), reader


FAULTS = {
    "a file is gone": ("tokenizer.json", lambda path: path.unlink()),
    "heads": ("config.json", lambda path: change(path.parent, path.name, {"vision_config.num_attention_heads": 4})),
    "dtype": ("config.json", lambda path: change(path.parent, path.name, {"dtype": "int8"})),
    "activation": ("config.json", lambda path: change(path.parent, path.name, {"vision_config.hidden_act": "nope"})),
    "no object": ("config.json", lambda path: change(path.parent, path.name, {"vision_config": "x"})),
    "a bit": (WEIGHTS, lambda path: flip(path, path.stat().st_size - 9, 1)),
    "cut short": (WEIGHTS, lambda path: path.write_bytes(path.read_bytes()[:-7])),
    "not a number": (WEIGHTS, lambda path: poison(path)),
    "itself": (DESCRIPTION, lambda path: change(path.parent, path.name, {"plans": []})),
    "no JSON": (DESCRIPTION, lambda path: path.write_text('{"format": ')),
    "deep": (DESCRIPTION, lambda path: path.write_text('{"a": ' + "[" * 100_000)),
    "a long number": (DESCRIPTION, lambda path: path.write_text('{"a": ' + "1" * 5000 + "}")),
    "added code": ("modeling_clip.py", lambda path: path.write_text("raise SystemExit")),
    "added tokens": ("added_tokens.json", lambda path: path.write_text('{"red": 7}')),
}


def flip(path: Path, place: int, mask: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= mask
    path.write_bytes(bytes(data))


def poison(path: Path) -> None:
    tensors = load_file(path)
    next(t for name, t in sorted(tensors.items()) if name.startswith("norms"))[0] = torch.nan
    save_file(tensors, path)


@pytest.mark.parametrize(("file", "spoil"), FAULTS.values(), ids=FAULTS)
def test_a_folder_that_changed_is_refused_and_the_file_named(clip, tmp_path, file, spoil):
    folder = copied(clip, tmp_path / "packed")
    spoil(folder / file)
    assert isinstance(said := outcome(folder), str)
    assert file in said and ("packed" in said or "again" in said)


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("generation_config.json", "max_length", "long"),
        ("processor_config.json", "image_processor.patch_size", 7),
        ("tokenizer_config.json", "pad_token", "red"),
    ],
)
def test_a_changed_reader_of_a_model_that_writes_is_refused(writer, tmp_path, file, field, value):
    folder = copied(writer[0], tmp_path / "packed")
    change(folder, file, {field: value})
    assert f"{file} of 'packed' is damaged" in outcome(folder)


SEALED = {
    "no tokenizer": ("clip", "tokenizer.json", None, "has no tokenizer"),
    "a broken tokenizer": ("clip", "tokenizer.json", {"model": 3}, "tokenizer of .* does not load"),
    "activation": (
        "clip",
        "config.json",
        {"vision_config.hidden_act": "nope"},
        "config.json of 'packed' does not make",
    ),
    "no object": ("clip", "config.json", {"vision_config": "x"}, "config.json of 'packed' does not make a CLIPModel"),
    "a class": ("clip", "config.json", {"architectures": ["os.system"]}, "must name a model class"),
    "another class": (
        "clip",
        "config.json",
        {"architectures": ["SiglipModel"]},
        "belongs to another model",
    ),
    "width": ("clip", "config.json", {"vision_config.hidden_size": 32}, "belongs to another model"),
    "no pixels": ("clip", "preprocessor_config.json", {"image_mean": "red"}, "image_mean"),
    "a kernel": ("clip", DESCRIPTION, {"attention": "someone/their-kernel"}, "unknown attention implementation"),
    "a wrapper": ("clip", DESCRIPTION, {"wrapper": "Unknown"}, "pass the baseline"),
    "integers": ("clip", DESCRIPTION, {"dtype": "int8"}, "is damaged .*dtype"),
    "no plans": ("clip", DESCRIPTION, {"plans": []}, "has plan 0 of 0"),
    "no layers": ("clip", DESCRIPTION, {"layers": 3}, "is damaged .*layers"),
    "an unknown name": ("clip", DESCRIPTION, {"colour": 3}, "unknown name 'colour'"),
    "generation": ("writer", "generation_config.json", {"pad_token_id": "x"}, "generation_config.json of 'packed'"),
    "no prompt": ("writer", "chat_template.jinja", None, "has no chat template"),
    "no processor": ("writer", "processor_config.json", None, "processor of .* does not load"),
    "an image token": ("writer", "config.json", {"image_token_id": 9999}, "not in the tokenizer"),
}


@pytest.mark.parametrize(("model", "file", "values", "words"), SEALED.values(), ids=SEALED)
def test_a_folder_that_was_packed_wrong_is_refused(model, file, values, words, clip, writer, tmp_path):
    folder = copied({"clip": clip, "writer": writer[0]}[model], tmp_path / "packed")
    if values is None:
        known = unsealed(folder)
        (folder / file).unlink()
        seal(folder, known)
    else:
        change(folder, file, values, sealed=True)
    with pytest.raises(EdgelibError, match=words):
        load_packed(folder)


def test_values_that_are_not_finite_are_neither_written_nor_read(clip, tmp_path):
    block = Block()
    block.norm1.weight.data[0] = torch.nan
    with pytest.raises(EdgelibError, match=r"'norm1.weight' has 1 values that are NaN or infinite"):
        save_packed(block, tmp_path / "packed")
    assert not list(tmp_path.iterdir())
    folder = copied(clip, tmp_path / "packed")
    known = unsealed(folder)
    poison(folder / WEIGHTS)
    seal(folder, known)
    with pytest.raises(EdgelibError, match=r"packed.safetensors: .* NaN or infinite"):
        load_packed(folder)


def test_masks_may_be_infinite(tmp_path):
    waves = Waves()
    waves.mean[0] = -torch.inf
    folder = save_packed(quantize(waves, "w8a8-minmax"), tmp_path / "packed")
    assert torch.equal(load_packed(folder, like=Waves()).mean, waves.mean)


@pytest.mark.parametrize(
    ("computed", "words"),
    [
        ({"inv_freq": torch.ones(4)}, r"\(4,\) where the model has .*\(8,\)"),
        ({"inv_freq": torch.ones(8, dtype=torch.int32)}, "int32"),
        ({"inv_freq": torch.full((8,), torch.nan)}, "NaN"),
        ({"other": torch.ones(8)}, "another model"),
    ],
    ids=["shape", "dtype", "nan", "name"],
)
def test_computed_buffers_of_another_model_are_refused(computed, words, tmp_path):
    folder = save_packed(quantize(Waves(), "w8a8-minmax"), tmp_path / "packed")
    known = unsealed(folder)
    save_file(computed, folder / COMPUTED)
    with pytest.raises(EdgelibError, match=f"{COMPUTED} of 'packed' is damaged"):
        load_packed(folder, like=Waves())
    seal(folder, known)
    with pytest.raises(EdgelibError, match=words):
        load_packed(folder, like=Waves())


@pytest.mark.parametrize(
    ("format", "words"),
    [("edgelib packed 1", "earlier version .* quantize the baseline again"), ("edgelib packed 99", "of this version")],
)
def test_another_version_is_refused(format, words, clip, tmp_path):
    folder = copied(clip, tmp_path / "packed")
    change(folder, DESCRIPTION, {"format": format})
    with pytest.raises(EdgelibError, match=words):
        load_packed(folder)


def test_notes_and_hidden_files_beside_a_packed_model_are_left_alone(clip, tmp_path):
    folder = copied(clip, tmp_path / "packed")
    (folder / "README.md").write_text("A tiny CLIP.")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock.json").write_text("{}")
    assert outcome(folder) == outcome(clip)


def test_a_generation_config_that_makes_no_sense_is_not_written(tmp_path):
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=8, **sizes)).eval()
    model.generation_config = GenerationConfig(do_sample=False)
    model.generation_config.temperature = 0.1
    with pytest.raises(EdgelibError, match="cannot be written .*temperature"):
        save_packed(model, tmp_path / "packed")
    assert not list(tmp_path.iterdir())


def test_the_current_folder_has_a_name(clip, tmp_path, monkeypatch):
    folder = copied(clip, tmp_path / "packed")
    monkeypatch.chdir(folder)
    with pytest.raises(EdgelibError, match="'packed' is where this process works"):
        save_packed(load_packed("."), ".")
    assert outcome(Path(".")) == outcome(clip)
    (folder / WEIGHTS).unlink()
    assert "'packed' lacks 'packed.safetensors'" in outcome(Path("."))


def test_a_folder_is_sealed_whatever_it_is_loaded_into(tmp_path):
    torch.manual_seed(0)
    block = Block().eval()
    folder = save_packed(quantize(block, "w8a8-minmax"), tmp_path / "packed")
    assert torch.equal(load_packed(folder, like=block)(inputs(1)), quantize(block, "w8a8-minmax")(inputs(1)))
    flip(folder / WEIGHTS, 400, 128)
    with pytest.raises(EdgelibError, match=f"{WEIGHTS} of 'packed' is damaged"):
        load_packed(folder, like=block)


# Anything at all


def places(value, path=()) -> list[tuple]:
    """The paths of all fields in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [step for key, child in inner for step in ((*path, key), *places(child, (*path, key)))]


def change_field(draw, path: Path, sealed: bool = False) -> None:
    """Give a field of a JSON file another value, or another name."""
    known = unsealed(path.parent) if sealed else None
    facts = known if sealed and path.name == DESCRIPTION else json.loads(path.read_text())
    *steps, last = draw(st.sampled_from(places(facts)))
    place = facts
    for step in steps:
        place = place[step]
    if isinstance(place, dict) and draw(st.booleans()):
        place[f"{last}_x"] = place.pop(last)
    else:
        place[last] = draw(st.sampled_from(OTHER_VALUES))
    if path.name != DESCRIPTION or not sealed:
        path.write_text(json.dumps(facts))
    if sealed:
        seal(path.parent, known)


def cut(draw, path: Path) -> None:
    path.write_bytes(path.read_bytes()[: draw(st.integers(0, path.stat().st_size - 1))])


def change_byte(draw, path: Path) -> None:
    flip(path, draw(st.integers(0, path.stat().st_size - 1)), draw(st.integers(1, 255)))


def rename(draw, path: Path) -> None:
    path.rename(path.with_name(draw(st.sampled_from(["x.json", f"{path.name}.old", f".{path.name}", "config.json"]))))


def into_folder(draw, path: Path) -> None:
    path.unlink()
    path.mkdir()


def add(draw, path: Path) -> None:
    name = draw(
        st.sampled_from(["special_tokens_map.json", "code.py", "vocab.txt", "deep/x.json", "model.safetensors"])
    )
    (path.parent / name).parent.mkdir(exist_ok=True)
    (path.parent / name).write_bytes(draw(st.binary(max_size=20)))


MUTATIONS = [change_byte, change_field, cut, rename, into_folder, add, lambda draw, path: path.unlink()]


@pytest.mark.parametrize("kind", ["clip", "writer"])
def test_a_folder_that_changed_anywhere_is_refused_or_loads_bit_equal(kind, clip, writer, tmp_path):
    whole = {"clip": clip, "writer": writer[0]}[kind]
    right, names = outcome(whole), sorted(path.name for path in whole.iterdir())

    @FUZZ
    @given(st.data())
    def check(data):
        folder = copied(whole, tmp_path / "packed")
        path, mutate = folder / data.draw(st.sampled_from(names)), data.draw(st.sampled_from(MUTATIONS))
        if mutate is change_field and path.suffix != ".json":
            mutate = change_byte
        mutate(data.draw, path)
        found = outcome(folder)
        assert isinstance(found, str) or found == right

    check()


@pytest.mark.parametrize("kind", ["clip", "writer"])
def test_a_folder_that_was_packed_with_anything_loads_or_is_refused(kind, clip, writer, tmp_path):
    whole = {"clip": clip, "writer": writer[0]}[kind]
    names = sorted(path.name for path in whole.glob("*.json"))

    @settings(FUZZ, max_examples=40)
    @given(st.data())
    def check(data):
        folder = copied(whole, tmp_path / "packed")
        change_field(data.draw, folder / data.draw(st.sampled_from(names)), sealed=True)
        try:
            load_packed(folder)
        except EdgelibError as error:
            assert "\n" not in str(error)

    check()


# Code in a folder

CODE = """
from pathlib import Path
Path({marker!r}).write_text("ran")
class Mine:
    @classmethod
    def from_pretrained(cls, *args, **kwargs): return cls()
"""
REMOTE = {
    "tokenizer": (
        "tokenizer_config.json",
        {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "code.Mine"]}},
    ),
    "model": ("config.json", {"auto_map": {"AutoConfig": "code.Mine", "AutoModel": "code.Mine"}}),
    "unknown model": ("config.json", {"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}}),
    "processor": ("processor_config.json", {"processor_class": "Mine", "auto_map": {"AutoProcessor": "code.Mine"}}),
    "image processor": (
        "processor_config.json",
        {
            "image_processor.image_processor_type": "Mine",
            "image_processor.auto_map": {"AutoImageProcessor": "code.Mine"},
            "auto_map": {"AutoImageProcessor": "code.Mine"},
        },
    ),
    "audio tokenizer": (
        "processor_config.json",
        {"audio_tokenizer": {"audio_tokenizer_class": "AutoModel", "audio_tokenizer_name_or_path": "@"}},
    ),
}


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "float"])
@pytest.mark.parametrize(("file", "values"), REMOTE.values(), ids=REMOTE)
def test_code_in_a_folder_is_neither_run_nor_asked_about(file, values, packed, writer, tmp_path, monkeypatch):
    folder, marker, asked = copied(writer[0 if packed else 1], tmp_path / "model"), tmp_path / "ran", []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "y")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}}))
    known = unsealed(folder) if packed else None
    for place in (folder, other):
        (place / "code.py").write_text(CODE.format(marker=str(marker)))
    text = json.dumps(values).replace("@", str(other))
    change(folder, file, json.loads(text))
    if packed:
        seal(folder, known)
    try:
        (load_packed if packed else edgelib.load)(folder)
    except EdgelibError as error:
        assert "\n" not in str(error)
    assert not asked and not marker.exists()


def test_every_automatic_class_is_told_not_to_run_code():
    for path in sorted((ROOT / "edgelib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = ast.unparse(node.func.value)
            if node.func.attr in ("from_pretrained", "from_config") and "auto" in owner.lower():
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("trust_remote_code") == "False", f"{path.name}: {owner}.{node.func.attr}"
