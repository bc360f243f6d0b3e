"""What is done with each family of models, found out on a small folder of it: the table of the book's page *Families*.

    .venv/bin/python tests/family_table.py

writes book/reference/families.csv anew; a test computes its rows again and compares.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import transformers
import vlm_folders
from helpers import ROOT

from edgelib import EdgelibError, load, load_packed, quantize, save_packed
from edgelib.doctor.models import examine
from edgelib.files.compressed_tensors import save_compressed_tensors
from edgelib.ground.quiet import quiet_libraries
from edgelib.ground.separate import left_apart
from edgelib.models.load import EMBEDDED
from edgelib.quant.report import parameter_plan

TABLE = ROOT / "book" / "reference" / "families.csv"
FAMILIES: dict[str, Callable[[Path], Path]] = {
    "Qwen3-VL": vlm_folders.qwen3_vl,
    "Qwen3-VL, experts": vlm_folders.qwen3_vl_moe,
    "Qwen2.5-VL": vlm_folders.qwen2_5_vl,
    "Qwen2-VL": vlm_folders.qwen2_vl,
    "LLaVA": vlm_folders.llava,
    "LLaVA-OneVision": vlm_folders.llava_onevision,
    "SmolVLM": vlm_folders.smolvlm,
    "Idefics3": vlm_folders.idefics3,
    "InternVL": vlm_folders.internvl,
    "PaliGemma": vlm_folders.paligemma,
    "PaliGemma 2": partial(vlm_folders.paligemma, window=8),
    "Gemma 3": vlm_folders.gemma3,
    "BLIP, answers": vlm_folders.blip,
    "BLIP, captions": partial(vlm_folders.blip, answering=False),
    "Florence-2": vlm_folders.florence2,
    "CLIP": vlm_folders.clip,
    "SigLIP": vlm_folders.siglip,
    "SigLIP 2, any shape": vlm_folders.siglip2,
    "ViT of timm": lambda out: EMBEDDED / "scenes-vit",
}
SCHEME = "w8a8-minmax"


def found_out(family: str, folder: Path) -> dict[str, str]:
    """What the doctor says of a folder: type, shares, features, caches, chapters."""
    said = examine(str(folder))
    if not said.works:
        return {"family": family, "type": "refused: " + next(f.text for f in said.findings if f.fault)}
    facts = said.facts
    return {
        "family": family,
        "type": facts["family"],
        "quantized": f"{100 * facts['quantizable']:.0f} %",
        "all Linears": f"{100 * _share(folder, facts['writes']):.0f} %",
        "kept": ", ".join(sorted(facts["kept"], key=lambda why: why.removeprefix("an ").removeprefix("a "))),
        "features": {True: "shared", False: "for each question", None: "of images"}[facts.get("features_shared")],
        "caches": ", ".join(facts.get("caches", [])) or "none",
        "chapters": ", ".join(facts["chapters"]).replace("_", " "),
    }


def _share(folder: Path, writes: bool) -> float:
    """Share of the parameters in all Linears that can be rounded: vision tower, connector and head of tokens too."""
    every = {"preset": SCHEME, "targets": ["decoder", "vision", "head"]} if writes else SCHEME
    plan = parameter_plan(load(folder), every)
    return float(plan["count"][plan["kept"] == ""].sum() / plan["count"].sum())


def exported(folder: Path, scratch: Path) -> dict[str, str]:
    """Whether the quantized model comes back from a packed folder, and from a checkpoint that transformers reads."""
    model = load(folder)
    made = quantize(model, SCHEME)
    save_packed(made, scratch / "packed")
    own = load_packed(scratch / "packed", like=model if not hasattr(model.module, "config") else None)
    same = own.fingerprint == made.fingerprint
    return {"packed": "yes" if same else "changed", "compressed-tensors": _checkpoint(model, made, scratch / "export")}


def _checkpoint(model, made, folder: Path) -> str:
    apart, without = left_apart(model.module), ""
    try:
        save_compressed_tensors(made, folder)
    except EdgelibError:
        if not apart:
            return "no"
        without = f", without {apart[0].rpartition('.')[2]}"
        save_compressed_tensors(quantize(model, {"preset": SCHEME, "exclude": [f"{name}.*" for name in apart]}), folder)
    read, info = type_of(model).from_pretrained(folder, output_loading_info=True)
    whole = not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return f"yes{without}" if whole else f"not read whole{without}"


def type_of(model):
    return getattr(transformers, type(model.module).__name__)


def row(family: str, scratch: Path) -> dict[str, str]:
    """The line of a family in the table."""
    folder = FAMILIES[family](scratch / "model")
    return found_out(family, folder) | exported(folder, scratch)


def committed() -> dict[str, dict[str, str]]:
    """The table as it stands in the book, by family."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {line["family"]: line for line in csv.DictReader(file)}


def main() -> None:
    quiet_libraries()
    transformers.utils.logging.disable_progress_bar()
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for family in sys.argv[1:] or FAMILIES:
            with tempfile.TemporaryDirectory() as scratch:
                rows.append(row(family, Path(scratch)))
            print(*rows[-1].values(), sep=" | ", flush=True)
    if sys.argv[1:]:
        return
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
