"""What a model folder or name is, and what can be done with it here: the same questions for every family."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from edgelib.chapters.table import taking
from edgelib.doctor.finding import Finding, fault_of, guarded
from edgelib.errors import EdgelibError
from edgelib.files.pack import load_packed
from edgelib.ground.memory import free_bytes, in_units
from edgelib.ground.separate import separated
from edgelib.kernels.table import KERNELS, unfit, why_not
from edgelib.kv.cache import decoder_for
from edgelib.models.architectures import architecture
from edgelib.models.checks import QuantizedAlready, require_baseline, stored_types
from edgelib.models.families.duals import dual_encoder
from edgelib.models.generative import GenerativeModel
from edgelib.models.generative_folder import load_processor
from edgelib.models.load import load, load_tokenizer, model_folder
from edgelib.models.preprocess import from_transformers, read_object
from edgelib.models.zero_shot import ClipModel, TimmClassifier
from edgelib.quant.names import PRESET_NAMES
from edgelib.quant.report import parameter_plan
from edgelib.quant.rounded import BLOCK, MOST_BITS, grids_of, rounded_before
from edgelib.quant.scheme import scheme

# One cache of each kind: every format, and every way to a scale; the chapters and the library know many more.
CACHES = (
    "bf16",
    "e4m3-one",
    "e4m3-amax",
    "e4m3-bias",
    "int8-token",
    "int8-channel",
    "int4-token",
    "int4-kivi",
    "nvfp4",
)
WEIGHTS_AT_ONCE = 2  # how often a model's weights are held: as they are read, and as they are computed with


@dataclass(frozen=True)
class Examined:
    """A model under the name that it was asked for by.

    facts: plain values, those that could be told. findings: what was looked at, in order.
    """

    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def works(self) -> bool:
        """Whether nothing that was looked at is at fault."""
        return not any(finding.fault for finding in self.findings)


def examine(name: str, *, weights: bool = True) -> Examined:
    """Return what a model is and can do here: an embedded name, a folder, or a hub id that was fetched before.

    weights: read and run the model, where memory allows; otherwise only what its files say of it. Nothing is
    downloaded, and no code of a folder runs. It never raises for a model: what is wrong with it is a finding.
    """
    found = Examined(name)
    found.findings.extend(guarded("folder", lambda: _folder(found)))
    if found.works:
        found.findings.extend(guarded("model", lambda: _whole(found, weights)))
    return found


def _folder(found: Examined) -> Iterator[Finding]:
    """What files there are, and whether they are a baseline."""
    folder = model_folder(found.name, offline=True)
    found.facts["folder"] = str(folder)
    config = read_object(folder / "config.json")
    types = stored_types(folder)
    found.facts.update(
        {
            "family": config.get("model_type") or config.get("architecture"),
            "file_bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
            "stored_as": sorted(set(types.values())),
            "quantized_already": None,
        }
    )
    try:
        require_baseline(folder, config, types)
    except QuantizedAlready as error:
        found.facts["quantized_already"] = error.method
        if (folder / "packing.json").is_file():
            yield from _packed(found, folder)
        raise
    size, kinds = found.facts["file_bytes"], ", ".join(found.facts["stored_as"])
    yield Finding("folder", f"{folder}: {len(types):,} tensors, {in_units(size)} of {kinds}")


def _packed(found: Examined, folder: Path) -> Iterator[Finding]:
    """A folder of our own: whether it can be read back."""
    try:
        model = load_packed(folder)
    except EdgelibError as error:
        yield fault_of("packed", error)
        return
    found.facts["class"] = type(model).__name__
    yield Finding("packed", "load_packed reads it whole; chapters quantize the model that it was made from")


def _whole(found: Examined, weights: bool) -> Iterator[Finding]:
    """The model itself: read and run, or built without its weights."""
    model, read = _network(found, weights)
    yield read
    facts, module = found.facts, model.module
    facts |= {"class": type(module).__name__, "writes": isinstance(model, GenerativeModel)}
    facts["parameters"] = sum(p.numel() for p in module.parameters() if p.is_floating_point())
    work = "writes answers" if facts["writes"] else "classifies images"
    yield Finding("family", f"{facts['family']} ({facts['class']}), {work}, {facts['parameters']:,} parameters")
    looks = {"reads": lambda: _reads(model, found), "schemes": lambda: _schemes(model, found)}
    if read.mark == "ok" and weights:
        looks |= {"grid": lambda: _grid(model, found), "run": lambda: _run(model, found)}
    looks |= {"caches": lambda: _caches(model, found), "kernels": lambda: _kernels(model, found)}
    for topic, look in looks.items():
        yield from guarded(topic, look)
    yield from _chapters(found)


def _network(found: Examined, weights: bool) -> tuple[Any, Finding]:
    """The model with its weights where they are wanted and fit, else without, and a line that says which."""
    folder = Path(found.facts["folder"])
    if "architecture" in read_object(folder / "config.json"):  # timm's are small, and have no shapes without weights
        return load(found.name, offline=True), Finding("weights", "whole and finite")
    shapes = architecture(folder, device="meta")
    need = WEIGHTS_AT_ONCE * sum(4 * p.numel() for p in shapes.parameters())
    if weights and need < free_bytes():
        return load(found.name, offline=True), Finding("weights", "whole and finite")
    why = f"they take about {in_units(need)} and {in_units(free_bytes())} are free" if weights else "not asked for"
    fix = "use a machine with more memory, or close other programs" if weights else ""
    finding = Finding("weights", f"not read: {why}; what follows is of shapes alone", fix)
    module = separated(shapes)
    if dual_encoder(module.config.model_type, [type(module).__name__]) is not None:
        return ClipModel(found.name, module, from_transformers(folder), load_tokenizer(folder)), finding
    return GenerativeModel(found.name, module, load_processor(folder)), finding


def _reads(model, found: Examined) -> Iterator[Finding]:
    """What prepares its inputs."""
    if isinstance(model, GenerativeModel):
        kind, pixels = type(model.processor).__name__, type(model.processor.image_processor).__name__
        found.facts.update({"processor": kind, "context": model.context})
        yield Finding("processor", f"{kind} with {pixels}, context of {model.context:,} tokens")
        return
    size = "x".join(map(str, model.preprocess.size))
    found.facts.update({"processor": f"images of {size} px"})
    words = f"{len(model.label_names)} classes of its own" if isinstance(model, TimmClassifier) else "any classes"
    yield Finding("processor", f"images of {size} px, {words}")


def _schemes(model, found: Examined) -> Iterator[Finding]:
    """How much of it is rounded, what is kept and why, and which schemes do not fit its layers."""
    plan = parameter_plan(model, "w8a8-minmax")
    shares = plan.groupby("kept", sort=False)["count"].sum() / plan["count"].sum()
    found.facts["quantizable"] = float(shares.get("", 0.0))
    kept = {str(why): float(s) for why, s in shares.sort_values(ascending=False).items() if why}
    found.facts["kept"] = kept
    words = ", ".join(f"{100 * share:.1f} % {why}" for why, share in kept.items())
    yield Finding("quantizable", f"{100 * found.facts['quantizable']:.1f} % of its parameters; kept: {words or 'none'}")
    misfits = {name: why for name in PRESET_NAMES if (why := _misfit(model, name))}
    found.facts["schemes"] = [name for name in PRESET_NAMES if name not in misfits]
    first = next(iter(misfits.items()), None)
    text = f"{len(found.facts['schemes'])} of {len(PRESET_NAMES)} presets fit"
    if first is None:
        yield Finding("schemes", text)
    else:
        fix = "name a group that divides its layers, such as w4a16-minmax-g32, or -channel"
        yield Finding("schemes", f"{text}, not {', '.join(misfits)}: {first[1]}", fix)


def _grid(model, found: Examined) -> Iterator[Finding]:
    """Whether its weights were rounded before, and which grids then give them back as they are."""
    table = rounded_before(model)
    found.facts["rounded_before"], found.facts["own_grids"] = int(table["rounded"].sum()), grids_of(model)
    if found.facts["rounded_before"]:
        text = (
            f"{found.facts['rounded_before']} of {len(table)} Linears hold at most {2**MOST_BITS} values in each block "
            f"of {BLOCK}: they were rounded before"
        )
        grids = ", ".join(found.facts["own_grids"])
        fix = "take it as the reference"
        fix += f", and leave out {grids}, which give it back as it is and cost nothing by construction" if grids else ""
        yield Finding("grid", text, fix)


def _misfit(model, name: str) -> str:
    try:
        parameter_plan(model, scheme(name))
    except EdgelibError as error:
        return str(error)
    return ""


def _run(model, found: Examined) -> Iterator[Finding]:
    """One small run, and whether questions share what it makes of an image."""
    if not isinstance(model, GenerativeModel):
        model.probe()
        if isinstance(model, ClipModel):
            model.class_vectors(["circle", "square"], ["a {}"])
        yield Finding("run", "it classifies a blank image")
        return
    images = [torch.zeros(3, side, 64, dtype=torch.uint8) for side in (64, 128)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is told below
        prompts = model.prepare(images, ["what is it"] * 2)
        features = model.features(prompts.pixels) if prompts.pixels else None
        model.probe()
    shared = features is not None
    found.facts["features_shared"] = shared
    how = "are shared by all questions about it" if shared else "are made again for each question about it, as it must"
    yield Finding("run", f"it answers about a blank image; features of an image {how}")


def _caches(model, found: Examined) -> Iterator[Finding]:
    """Which key-value caches fit its decoder."""
    if not isinstance(model, GenerativeModel):
        return
    reasons = {name: _cache_misfit(model, name) for name in CACHES}
    found.facts["caches"] = [name for name, why in reasons.items() if not why]
    refused = {name: why for name, why in reasons.items() if why}
    text = ", ".join(found.facts["caches"]) or "none"
    more = "" if not refused else f"; not {', '.join(refused)}: {next(iter(refused.values()))}"
    yield Finding("caches", text + more)


def _cache_misfit(model, name: str) -> str:
    try:
        decoder_for(model, name)
    except EdgelibError as error:
        return str(error)
    return ""


def _kernels(model, found: Examined) -> Iterator[Finding]:
    """Which kernels of this machine compute it."""
    here = {name: kernel for name, kernel in KERNELS.items() if not why_not(kernel)}
    reasons = {name: unfit(kernel, model) for name, kernel in here.items()}
    found.facts["kernels"] = [name for name, why in reasons.items() if not why]
    why = next((why for why in reasons.values() if why), "")
    yield Finding("kernels", ", ".join(found.facts["kernels"]) + (f"; of the others here: {why}" if why else ""))


def _chapters(found: Examined) -> Iterator[Finding]:
    """The chapters that take it, by which parameter."""
    takes = taking(found.name)
    if found.facts["writes"] and not found.facts.get("caches"):
        takes.pop("fp8_kv_ablation", None)  # nothing of it could be rounded there
    found.facts["chapters"] = takes
    words = [chapter + "".join(f" (as {f} too)" for f in fields if f != "model") for chapter, fields in takes.items()]
    yield Finding("chapters", ", ".join(words) or "none")
