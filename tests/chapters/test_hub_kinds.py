"""A hub id of the wrong kind is refused by its configuration, before its weights; where nothing tells, what is wanted
is said."""

from __future__ import annotations

import json
import re

import huggingface_hub
import huggingface_hub.constants
import pytest

from edgelib.chapters.schema import kinds
from edgelib.errors import EdgelibError

CONFIGS = {
    "someone/writes": {"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]},
    "someone/classifies": {"model_type": "clip", "architectures": ["CLIPModel"]},
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that hands out configurations alone; `fetched` lists what else was asked for."""
    cached, fetched = {}, []

    def download(name, file, **_):
        cached[name] = tmp_path / f"{name.replace('/', '-')}.json"
        cached[name].write_text(json.dumps(CONFIGS[name]))

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: fetched.append(name))
    monkeypatch.setattr(kinds, "_cached", lambda name: str(cached[name]) if name in cached else None)
    return fetched


@pytest.mark.parametrize(
    ("refuse", "name", "said"),
    [
        (kinds.name_of_classifier, "someone/writes", "writes answers, but a classifier"),
        (kinds.name_of_writer, "someone/classifies", "classifies images, but a model that writes"),
        (kinds.name_of_supervised, "someone/classifies", "is no supervised classifier"),
    ],
    ids=["a writer", "a classifier", "no timm model"],
)
def test_the_wrong_kind_is_told_before_weights_are_fetched(hub, refuse, name, said):
    with pytest.raises(EdgelibError, match=said):
        kinds.load_kind(refuse, name, device="cpu", offline=False)
    assert hub == []


@pytest.mark.parametrize(
    ("refuse", "wanted"),
    [
        (kinds.name_of_classifier, "what is wanted here classifies images: clip"),
        (kinds.name_of_writer, "what is wanted here is a model that writes about an image, such as Qwen2-VL"),
        (kinds.name_of_supervised, "what is wanted here is a timm classifier"),
    ],
    ids=["classifier", "writer", "supervised"],
)
def test_an_id_that_is_not_here_says_what_kind_to_bring(refuse, wanted):
    with pytest.raises(EdgelibError, match=f"is not in the local cache.*--local-dir.*{re.escape(wanted)}"):
        kinds.load_kind(refuse, "nobody/nothing-here", device="cpu", offline=True)
