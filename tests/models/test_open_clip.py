"""A folder in the layout of open_clip alone is told from a broken one, and why it is not taken is said."""

from __future__ import annotations

import json

import pytest

from edgelib import load
from edgelib.errors import EdgelibError

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}


@pytest.mark.parametrize(
    ("tower", "said"),
    [
        ({"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}, "other names than the CLIP of transformers"),
        ({"timm_model_name": "fastvit_mci2", "image_size": 256}, "timm's 'fastvit_mci2'"),
        ({"image_size": 224, "layers": [3, 4, 6, 3], "width": 64}, "a ResNet"),
        (None, "layout of transformers"),
    ],
    ids=["vit", "mobileclip", "resnet", "broken"],
)
def test_it_is_refused_naming_what_it_holds(tmp_path, tower, said):
    config = {"model_cfg": {"embed_dim": 64, "vision_cfg": tower, "text_cfg": TEXT}, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    with pytest.raises(EdgelibError, match="model of open_clip") as refused:
        load(tmp_path)
    assert said in str(refused.value) and "config.json" in str(refused.value)
