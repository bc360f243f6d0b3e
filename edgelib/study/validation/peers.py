"""How far this library is from the vectors of other tools: how many numbers were compared, how many differ, the most.

The vectors lie in tests/reference of a checkout; an installed package has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from edgelib.corruptions import CORRUPTIONS, corrupt
from edgelib.corruptions.blur import motion_blurred
from edgelib.corruptions.weather.fog import hazed
from edgelib.errors import EdgelibError
from edgelib.formats.gguf.codec import KINDS, gguf_encode
from edgelib.ground.paths import find_root
from edgelib.ground.records import one_line
from edgelib.quant.methods.smoothquant import smoothing_scales
from edgelib.stats.metrics import mce
from edgelib.study.validation.formats import SCHEMES, read_vectors, steps_apart, stored_cases
from edgelib.tasks.mme import mme_scores
from edgelib.tasks.pope import pope_scores
from edgelib.tasks.textvqa import textvqa_accuracies
from edgelib.tasks.vqa import vqa_accuracies

_SETS = {"imagenet-c_32": "cifar", "cifar-c_32": "cifar", "imagenet-c_224": "natural"}
_PEERS = {"imagenet-c": "imagecorruptions", "cifar-c": "hendrycks/robustness"}
_LOOSE = 1e-3  # of a step between two codes: below it, two values are the same code


@dataclass(frozen=True)
class Agreement:
    """One comparison with a peer's vectors.

    n: numbers compared. differ: those that are not the peer's. largest: the largest difference in `unit`. allowed: what
    the peers' own conventions explain, in the same unit.
    """

    part: str
    peer: str
    what: str
    n: int
    differ: int
    largest: float
    unit: str
    allowed: float


def vectors_folder(named: str | None = None) -> Path | None:
    """Return the folder of the vectors: the named one, else that of the checkout, or None where there is no checkout.

    Raises EdgelibError for a named folder that is none.
    """
    folder = find_root() / "tests" / "reference" if named is None else find_root() / named
    if folder.is_dir():
        return folder
    if named is not None:
        raise EdgelibError(f"no folder {named!r} of peers' vectors; name tests/reference of a checkout, or null")
    return None


def agreements(folder: Path) -> pd.DataFrame:
    """Return one row per comparison with the vectors of a folder laid out as tests/reference, fields of `Agreement`.

    Raises EdgelibError where a file is missing or cannot be read.
    """
    try:
        found = [
            *_corruptions(folder),
            *_metrics(folder / "metrics"),
            *_formats(folder / "ptq"),
            *_blocks(folder / "gguf"),
        ]
    except (OSError, KeyError, ValueError) as error:
        raise EdgelibError(f"cannot read the peers' vectors in {folder} ({one_line(error)}); restore them") from None
    return pd.DataFrame([vars(agreement) for agreement in found])


def _apart(part: str, peer: str, what: str, pairs, unit: str, allowed: float, loose: float = 0.0) -> Agreement:
    """An agreement from pairs of arrays of equal shape, ours and theirs."""
    gaps = np.concatenate([np.abs(np.asarray(a, float) - np.asarray(b, float)).ravel() for a, b in pairs])
    return Agreement(part, peer, what, gaps.size, int((gaps > loose).sum()), float(gaps.max()), unit, allowed)


def _planes(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, -3)))


def _corruptions(folder: Path) -> Iterator[Agreement]:
    """Deterministic corruptions as they are; random ones with the peer's own draw."""
    folder = folder / "corruptions"
    clean = {name: _planes(array) for name, array in np.load(folder / "clean.npz").items()}
    for kind, images in _SETS.items():
        table, size = kind.split("_")
        files = [folder / f"{more}deterministic_{kind}.npz" for more in ("", "extra_")]
        pairs = [
            (corrupt(clean[images], name, int(severity), table=table), _planes(theirs))
            for stored in (np.load(path) for path in files if path.is_file())
            for name, entry in CORRUPTIONS.items()
            if not entry.random and name in stored.files
            for severity, theirs in zip(stored["severities"], stored[name], strict=True)
        ]
        yield _apart("corruptions", _PEERS[table], f"deterministic, {size} px", pairs, "grey levels", 1)
    blurs, fogs = np.load(folder / "motion_blur_fixed_angle.npz"), np.load(folder / "fog_and_disks.npz")
    small = clean["cifar"]
    for table, peer in _PEERS.items():
        levels = CORRUPTIONS["motion_blur"].levels[table]
        pairs = [
            (motion_blurred(small, level, [float(angle)] * len(small)), _planes(theirs))
            for angle, outputs in zip(blurs["angles"], blurs[table], strict=True)
            for level, theirs in zip(levels, outputs, strict=True)
        ]
        yield _apart("corruptions", peer, "motion blur, angle given", pairs, "grey levels", 1)
        pairs = [
            (
                hazed(small, amount, torch.from_numpy(fogs[f"{table}_map_{row}"])[None]),
                _planes(fogs[f"{table}_fog"][row - 1]),
            )
            for row, (amount, _) in enumerate(CORRUPTIONS["fog"].levels[table], start=1)
        ]
        yield _apart("corruptions", peer, "fog, map given", pairs, "grey levels", 1)


def _metrics(folder: Path) -> Iterator[Agreement]:
    pairs: list[tuple]
    stored = {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("imagenet_c_mce", "vqav2")}
    models = stored["imagenet_c_mce"]["models"].values()
    errors = [{name: [1 - a for a in row] for name, row in model["accuracy"].items()} for model in models]
    pairs = [([100 * mce(e) for e in errors], [model["augmix_mCE_percent"] for model in models])]
    yield _apart("metrics", "google-research/augmix", "mCE", pairs, "percent", 1e-9, 1e-9)
    said, runs, official, always = zip(*stored["vqav2"]["cases"], strict=True)
    answers = [[text for times, text in row for _ in range(times)] for row in runs]
    half = 0.005 + 1e-9  # the peers print two decimals
    pairs = [(100 * vqa_accuracies(said, answers), official)]
    yield _apart("metrics", "GT-Vision-Lab/VQA", "VQAv2 accuracy", pairs, "percent", half, half)
    pairs = [(100 * vqa_accuracies(said, answers, "always-normalise"), always)]
    yield _apart("metrics", "lmms-eval", "VQAv2 accuracy, always normalised", pairs, "percent", half, half)
    read = json.loads((folder / "textvqa.json").read_text("utf-8"))
    texts = [*said, *(case[0] for case in read["cases"])]
    given = [*answers, *([text for times, text in case[1] for _ in range(times)] for case in read["cases"])]
    pairs = [(100 * textvqa_accuracies(texts, given), read["accuracies"] + [case[2] for case in read["cases"]])]
    yield _apart("metrics", "mmf, by lmms-eval", "TextVQA accuracy", pairs, "percent", half, half)
    labels, replies, readings, _ = zip(*json.loads((folder / "pope.json").read_text("utf-8"))["items"], strict=True)
    ours = [pope_scores([label], [reply])["accuracy"] for label, reply in zip(labels, replies, strict=True)]
    pairs = [(ours, [float(label == reading) for label, reading in zip(labels, readings, strict=True)])]
    yield _apart("metrics", "AoiDragon/POPE", "answers read", pairs, "answers", 0)
    yield _mme(json.loads((folder / "mme.json").read_text("utf-8")))


def _mme(stored: dict) -> Agreement:
    questions = stored["structure"]["questions_per_task_in_official_templates"]
    rows = [(t, image, answer) for t, n in questions.items() for image in range(n // 2) for answer in ("yes", "no")]
    sheet = pd.DataFrame(rows, columns=["task", "image", "answer"])
    says = {"perfect": sheet["answer"], "all_yes": "Yes.", "all_no": "no"}
    pairs = []
    for peer in stored["sets"]:
        scores = mme_scores(sheet.assign(prediction=says[peer["name"]]))
        names = ("perception", "cognition", "total")
        pairs.append(([scores[name] for name in names], [peer[name] for name in names]))
    return _apart("metrics", "MME evaluation tool", "points of whole sheets", pairs, "points", 1e-6, 1e-6)


def _formats(folder: Path) -> Iterator[Agreement]:
    vectors = read_vectors(folder)
    found: dict[str, list] = {}
    for peer, name, tensor in stored_cases(vectors):
        found.setdefault(peer, []).append((steps_apart(vectors, peer, name, tensor), SCHEMES[peer, name].ties))
    for peer, cases in found.items():
        apart = torch.cat([steps[live] for (steps, _, live), _ in cases])
        unexplained = sum(int((live & (steps > _LOOSE) & ~(tie & ties)).sum()) for (steps, tie, live), ties in cases)
        differ = int((apart > _LOOSE).sum())
        what = f"rounded weights, {len(cases)} cases" + ("" if unexplained else ", apart on ties alone" * bool(differ))
        # one step apart with the number in the middle is a tie, which tools break in different ways
        yield Agreement(
            "formats", peer.replace("_", "-"), what, apart.numel(), differ, float(apart.max()), "steps", 1.001
        )
    stem = "smoothquant/smooth_ln_fcs/alpha"
    # their scales at alpha 1 are the activation maxima, at alpha 0 the inverse weight maxima
    peak, weight = torch.from_numpy(vectors[f"{stem}1.0/scales"]), 1 / torch.from_numpy(vectors[f"{stem}0.0/scales"])
    live = peak > 1e-4  # a channel that calibration never saw active stays as it is here
    pairs = []
    for key in vectors:
        if key.startswith(stem):
            ours = smoothing_scales(peak, [weight[None]], float(key.removeprefix(stem).partition("/")[0]))
            pairs.append(((ours / torch.from_numpy(vectors[key]))[live], torch.ones(int(live.sum()))))
    yield _apart("formats", "smoothquant", "migration scales", pairs, "relative", 2e-6, 2e-6)


def _blocks(folder: Path) -> Iterator[Agreement]:
    """Bytes of GGUF blocks, by type, plain and with importance."""
    stored = [np.load(folder / f"{name}.npz") for name in ("blocks", "corners")]
    for kind in KINDS:
        pairs = []
        for file in stored:
            for key in (k for k in file.files if k.startswith(f"bytes/{kind}/")):
                _, _, name, weighting = key.split("/")
                weights = None if weighting == "plain" else torch.from_numpy(file[f"importance/{weighting}"])
                pairs.append((gguf_encode(torch.from_numpy(file[f"in/{name}"]), kind, weights), file[key]))
        if pairs:
            yield _apart("GGUF blocks", "llama.cpp, by libgguf", kind, pairs, "of a byte", 0)
