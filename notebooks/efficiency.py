# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: -all,tags,mystnb
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does it fit, and is it faster?
#
# {glue:text}`answer`
#
# :::{note}
# Sizes on this page are predicted from shapes, and checked on files of the embedded model. Times are *measured* on the machine that is named, or *projected* onto another device
# with an interval; never simulated. The page takes about a minute, because it reads stored measurements.
# :::
#
# ## Why it matters
#
# A format with half the bits does not make a file half as large, and a smaller file does not make a model twice as fast. What
# stays in floating point, what a kernel exists for, and whether bytes or arithmetic set the pace decide that. EdgeVLM-Bench
# reports sizes of 32-bit models as 16-bit ones and times a simulator; Swift-VLM-Flow credits quantization with what a faster
# runtime did. This page keeps the causes apart. A step that moves $B$ bytes and computes $F$ operations takes at least
#
# $$
# t \ge \max\left(\frac{B}{\beta}, \frac{F}{\pi}\right),
# $$
#
# where $\beta$ is the bandwidth of the memory and $\pi$ the rate of the arithmetic, the roofline of {cite:t}`williams2009`.

# %% tags=["remove-cell"]

from typing import Optional

from edgelib.chapters.efficiency import Efficiency
from edgelib.chapters.params import begin, validate

begin(globals())

# %% tags=["parameters"]
model: str = "scenes-clip"  # packed, saved and read again
dataset: str = "scenes"  # images on which it is compared with its simulation
n_images: int = 32
architectures: list[str] = ["clip-vit-base-patch32", "qwen2-vl-2b"]  # sizes from public dimensions
configs: list[str] = ["fp32", "fp16", "w8a8-minmax", "w8a16", "w4a8-minmax", "w4a16", "fp8", "nvfp4"]
measurements: Optional[str] = None  # folder made by `edgelib measure`; None: the published machine; "here": measure now
devices: Optional[list[str]] = None  # keys of the device table; None: all
device_table: Optional[str] = None  # a YAML file with device rows of your own
encoder: str = "clip-vit-base-patch32"  # projected onto the devices
decoder: str = "qwen2-vl-2b"
context: int = 1024  # tokens that the language model keeps in memory
projection_level: float = 0.9  # level of the intervals of projections
seed: int = 0
batch_size: int = 128
device: str = "cpu"
local_files_only: bool = False
level: float = 0.95
results: str = "results"

# %% tags=["remove-cell"]
P = validate(globals(), Efficiency)

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import pandas as pd
from edgelib.report.claims.base import Sentence, bullets
from IPython.display import Markdown, display
from myst_nb import glue

from edgelib.data.datasets import dataset as read_images
from edgelib.devices.device import legality, memory_table
from edgelib.devices.gains import quantization_gains, separated_gains, speedup_table, swift_vlm_flow
from edgelib.devices.measurements import achieved, machine_device
from edgelib.devices.projection import projector, published_points
from edgelib.devices.shapes import decoder as decoder_shape
from edgelib.devices.shapes import encoder as encoder_shape
from edgelib.devices.table import devices as device_rows
from edgelib.devices.table import select
from edgelib.devices.validation import calibrated, speedups
from edgelib.devices.validation import validate as validate_projection
from edgelib.devices.workload import decode_work, encode_work
from edgelib.files.size import packed_size, weight_bits
from edgelib.infer.packed import packed_round_trip
from edgelib.models.architectures import architecture
from edgelib.models.load import load
from edgelib.quant.scheme import scheme
from edgelib.report.claims.devices import projection_text, speed_ratio_claim, speedup_claim, validation_claim
from edgelib.report.figures.base import look
from edgelib.report.figures.devices import legality_grid, memory_split, projected_and_measured, roofline
from edgelib.report.figures.devices import speedups as speedup_lines
from edgelib.report.notebook import setup
from edgelib.report.tables import escaped, myst_table
from edgelib.study.machine import measurements_of

work = setup("efficiency", P.results)
MIB = 2**20
labels = {config: look(config).label for config in P.configs}

# %% [markdown]
# ## Bytes of a file
#
# We expect half the bits to save less than half the bytes, because embeddings, norms and the first layers stay as they are.
# EdgeVLM-Bench gives CLIP ViT-B/32 in "FP16" as 577.1 MB; that is the model in 32 bits, in MiB.

# %% tags=["hide-input", "full-width"]
sizes = pd.DataFrame(
    [
        {"model": name, "config": config, "bytes": packed_size(shape, config)["total"]}
        for name, shape in ((name, architecture(name)) for name in P.architectures)
        for config in P.configs
    ]
)
work.save_table("sizes", sizes)
shown = sizes.assign(bytes=sizes.bytes / MIB).pivot(index="config", columns="model", values="bytes")
shown = shown.loc[P.configs, P.architectures].reset_index()
shown["config"] = [labels[c] for c in shown.config]
display(
    Markdown(
        myst_table(
            shown.rename(columns={"config": "Configuration"}),
            "Packed size (MiB) from public dimensions, everything but the quantized weights in 32 bits unless the model is cast.",
            "tab-sizes",
            dict.fromkeys(P.architectures, "{:,.1f}".format),
        )
    )
)

# %% [markdown]
# A prediction is worth what a file says. {numref}`tab-files` saves the embedded model in every configuration that needs no
# calibration, reads it back and compares sizes and answers.

# %% tags=["hide-input", "full-width"]
subject = load(P.model, device=P.device, offline=P.local_files_only)
images = read_images(P.dataset, n=P.n_images, seed=P.seed, offline=P.local_files_only)
ready = [c for c in P.configs if not scheme(c).needs_calibration]
trip = packed_round_trip(subject, ready, images)
work.save_table("files", trip)
shown = pd.DataFrame(
    {
        "Configuration": [labels[c] for c in trip.config],
        "Predicted, kB": (trip.predicted / 1e3).map("{:,.1f}".format),
        "File, kB": (trip.file / 1e3).map("{:,.1f}".format),
        "File / predicted": (trip.file / trip.predicted).map("{:.4f}".format),
        "Largest logit difference": trip.max_difference.map("{:.1g}".format),
        "Answers that differ": trip.flips,
    }
)
caption = f"Predicted size against the bytes of a file of {escaped(subject.name)}, and the reloaded model against the saved one."
display(Markdown(myst_table(shown, caption, "tab-files", dict.fromkeys(shown.columns[1:], str))))

# %% [markdown]
# ## Time of a kernel
#
# The same encoder with random weights on every kernel that runs on one machine. Configurations take turns, so that whatever else
# the machine did met all of them alike; where others used much of the machine, ratios can be trusted more than times.

# %% tags=["hide-input"]
measured = measurements_of(P.measurements, work.folder / "measured")
here = machine_device(measured)
machine = measured.machine
facts = {
    "machine": machine["name"],
    "threads": machine["threads"],
    "used by others meanwhile": f"{machine['others']:.1%}" if "others" in machine else "not recorded",
    **{
        name.replace("_gb_s", ", GB/s").replace("_tops", " product, Tops/s"): f"{v:g}"
        for name, v in machine["ceilings"].items()
    },
    **{package: v for package, v in machine.get("versions", {}).items()},
}
pd.Series(facts).to_frame("measured on")

# %% mystnb={"figure": {"caption": "Measured speed of the vision encoder by kernel, as a multiple of torch in 32 bits on the same machine in the same run. Right of one is faster. One image at a time; medians.", "name": "fig-speed"}, "image": {"alt": "Dots of measured speed-up by kernel on a logarithmic axis with a line at one."}}
encoders = speedup_table(measured.encoders, "p50")
within = quantization_gains(measured.encoders, "p50").set_index(["model", "config", "batch"])
work.save_table("encoders", encoders)
single = encoders[(encoders.batch == 1) & (encoders.model == encoders.model.iloc[0])].assign(name=lambda t: t.config)
_, ax = plt.subplots(figsize=(6.4, 0.9 + 0.4 * len(single)))
speedup_lines(single.sort_values("speedup"), ax, "Measured speed (multiple of torch-fp32)")
plt.show()

# %% tags=["hide-input", "full-width"]
shown = encoders[["model", "config", "batch"]].rename(columns=str.capitalize)
shown["Median, ms"] = encoders.p50.map("{:.1f}".format)
shown["Quartiles, ms"] = [f"{a:.1f} to {b:.1f}" for a, b in zip(encoders.p25, encoders.p75, strict=True)]
shown["95 %, ms"] = encoders.p95.map("{:.1f}".format)
shown["Speed (range)"] = [
    f"{s:.2f} ({a:.2f} to {b:.2f})" for s, a, b in encoders[["speedup", "low", "high"]].to_numpy()
]
shown["In its own runtime"] = [
    f"{r.speedup:.2f} ({r.low:.2f} to {r.high:.2f})"
    for r in within.loc[list(encoders[["model", "config", "batch"]].itertuples(index=False, name=None))].itertuples()
]
shown["Weights, MiB"] = (encoders.weights / MIB).map("{:.0f}".format)
caption = f"Measured time of a vision encoder on {escaped(machine['name'])}, {machine['threads']} thread(s). Speed: over torch-fp32; in its own runtime: over the 32 bits of the same runtime, which is what narrow numbers did. Ranges divide opposite quartiles."
display(Markdown(myst_table(shown, caption, "tab-encoders", dict.fromkeys(shown.columns[2:], str))))

# %% [markdown]
# {numref}`fig-roof` says what binds. A point near the slope waits for memory: fewer bits make it faster. A point near a level roof
# waits for arithmetic: only a kernel that computes in the narrow format helps. A point far below both waits for its kernel.

# %% mystnb={"figure": {"caption": "What the measured steps achieve under the ceilings of the same machine, each the best that was seen, in a product or in a model: bandwidth (slope) and matrix products (levels). Encoders lie to the right, tokens of a decoder to the left. A point above all roofs computes in a format whose ceiling was not measured.", "name": "fig-roof"}, "image": {"alt": "Roofline plot with measured points per model and kernel."}}
points = pd.concat([achieved(measured.encoders, "p50"), achieved(measured.generation, "tpot_p50")], ignore_index=True)
points["name"] = points.model + ", " + points.config
work.save_table("roofline", points[["name", "batch", "intensity", "gb_s", "tops"]])
_, ax = plt.subplots(figsize=(7.2, 4.0))
roofline(points, here, ax)
plt.show()

# %% [markdown]
# ## First token, later tokens, memory
#
# TTFT is the time to the first token of a run, TPOT the time of each later one of the same run. With a long prompt the first is bound
# by arithmetic; a later one, or the first after a prompt of one token, reads all weights for a single token and is bound by memory
# if its kernel keeps up. Tokens per second count the whole batch and divide by the mean, where the other columns are medians.

# %% tags=["hide-input", "full-width"]
generation = measured.generation
work.save_table("generation", generation)
shown = generation[["model", "config", "batch", "prompt"]].rename(columns=str.capitalize)
for title, column in (
    ("TTFT, ms", "ttft_p50"),
    ("TPOT, ms", "tpot_p50"),
    ("TPOT 95 %, ms", "tpot_p95"),
    ("Tokens/s", "tokens_per_s"),
):
    shown[title] = generation[column].map("{:.1f}".format)
shown["KV, MiB"] = (generation.kv / MIB).map("{:.1f}".format)
caption = f"Measured generation on {escaped(machine['name'])}: medians of time to the first token and per later token, in the same runs."
display(Markdown(myst_table(shown, caption, "tab-generation", dict.fromkeys(shown.columns[2:], str))))
if machine.get("left_out"):
    display(
        Markdown("Cases that were not measured:\n\n" + "\n".join(f"- {escaped(line)}" for line in machine["left_out"]))
    )

# %% mystnb={"figure": {"caption": "Measured memory of a decoder by use: weights, keys and values of the cache, activations of a step, and what libraries hold beyond. The smallest and the largest case (batch x prompt) of each kernel: weights dominate, the cache grows with batch and prompt.", "name": "fig-memory"}, "image": {"alt": "Stacked horizontal bars of memory per model, configuration, batch and prompt."}}
rows = generation.sort_values("kv", kind="stable").groupby(["model", "config"]).nth([0, -1]).sort_index()
rows = rows.assign(
    name=[f"{r.model} {r.config.removeprefix('torch-')}, {r.batch} x {r.prompt}" for r in rows.itertuples()]
)
_, ax = plt.subplots(figsize=(6.8, 1.1 + 0.28 * len(rows)))
memory_split(rows, ax)
plt.show()

# %% [markdown]
# ### Whose gain is it?
#
# Swift-VLM-Flow compares quantized engines of one runtime with an unquantized model in another. Dividing by its own unquantized
# engine leaves what quantization did. The last columns add the memory it reports: the engines take more than the model they replace.

# %% tags=["hide-input", "full-width"]
seed_b = separated_gains(swift_vlm_flow(), ["ttft_speedup", "decode_speedup"], "TRT BF16")
work.save_table("gains", seed_b.reset_index())
shown = pd.DataFrame({"Configuration": seed_b.index})
for title, gain in (("TTFT", "ttft_speedup"), ("Decode", "decode_speedup")):
    shown[f"{title}, reported"] = seed_b[gain].map("{:.2f}x".format).to_numpy()
    shown[f"{title}, by quantization"] = seed_b[f"{gain}_quantization"].map("{:.2f}x".format).to_numpy()
shown["Memory, GB"] = (seed_b.static_gb + seed_b.dynamic_gb).map("{:.2f}".format).to_numpy()
shown.loc[0, [c for c in shown if "quantization" in c]] = "other runtime"
caption = "Speed-ups that Swift-VLM-Flow reports for Qwen2-VL-2B on an RTX 5060 Ti, and what is left of them against the same runtime in BF16."
display(Markdown(myst_table(shown, caption, "tab-gains", dict.fromkeys(shown.columns[1:], str))))

# %% [markdown]
# ## Devices
#
# One row of facts per device, each with its source; a device of your own is one more row in a file that the parameter `device_table`
# names. What a vendor's source was not seen for is marked. Rates are dense and those of the unit a model would run on.

# %% tags=["hide-input", "full-width"]
table = device_rows(P.device_table)
chosen = select(table, P.devices or list(table))
chosen = [*chosen, here]
shown = pd.DataFrame(
    {
        "Device": [d.name + (" (measured)" if d is here else "") for d in chosen],
        "Memory, GiB": [f"{d.memory_gib:g}" if d.memory_gib else "unknown" for d in chosen],
        "Usable, GiB": [
            f"{d.usable_gib:g}" + ("*" if "usable_gib" in d.unverified else "") if d.usable_gib else "unknown"
            for d in chosen
        ],
        "GB/s": [f"{d.bandwidth_gb_s:g}" for d in chosen],
        "Rates, 1e12/s": [
            ", ".join(f"{u} {r:g}" if r else f"{u} ?" for u, r in d.rates.items())
            + ("*" if "rates" in d.unverified else "")
            for d in chosen
        ],
        "Power, W": [" ".join(f"{w:g}" for w in d.power_w) for d in chosen],
    }
)
work.save_table("devices", shown)
display(
    Markdown(
        myst_table(
            shown,
            "Devices. A star marks what no source of the vendor confirms, a question mark a rate that is not published.",
            "tab-devices",
        )
    )
)

# %% mystnb={"figure": {"caption": "Which configurations compute on which device. Narrow weights beside 16-bit activations run wherever 16-bit arithmetic does, because they are decoded first; narrow activations need units of their own.", "name": "fig-legal"}, "image": {"alt": "Grid of devices by configurations with runs or no in each cell."}}
legal = legality(chosen, {c: (scheme(c).weight, scheme(c).activation) for c in P.configs})
work.save_table("legality", legal)
_, ax = plt.subplots(figsize=(7.2, 0.8 + 0.3 * len(chosen)))
legality_grid(legal, ax, {d.key: d.name for d in chosen}, labels)
plt.show()

# %% tags=["hide-input"]
refused = legal[~legal.legal].groupby("reason", sort=False)
display(
    Markdown(
        bullets(
            f"{escaped(reason)}: {', '.join(dict.fromkeys(labels[c] for c in rows.config))} on {', '.join(dict.fromkeys(next(d.name for d in chosen if d.key == k) for k in rows.device))}"
            for reason, rows in refused
        )
        or "- Every configuration runs on every device."
    )
)

# %% [markdown]
# ### Does it fit?
#
# Weights of the language model, with embedding and output head in 16 bits, and keys and values of the whole context, against what
# the operating system leaves. A vision tower, which {numref}`tab-sizes` counts, and activations come on top.

# %% tags=["hide-input", "full-width"]
shape = decoder_shape(P.decoder)
vision = architecture("clip-vit-base-patch32").vision_model
bits = {c: weight_bits(vision, c) for c in P.configs}
wide = {c: 32 if c == "fp32" else 16 for c in P.configs}  # embedding, output head, keys and values
stored = {c: (shape.body * bits[c] + (shape.head + shape.embedding) * wide[c]) / 8 for c in P.configs}
need = {c: stored[c] + shape.kv_bytes(P.context, wide[c]) for c in P.configs}
fits = memory_table([d for d in chosen if d.usable_gib], need)
fits = fits.merge(legal[["device", "config", "legal"]], on=["device", "config"])
work.save_table("fits", fits)
shown = fits.assign(
    cell=[
        "does not run" if not r.legal else f"{r.need_gib:.1f} fits" if r.fits else f"{-r.free_gib:.1f} short"
        for r in fits.itertuples()
    ]
)
shown = shown.pivot(index="device", columns="config", values="cell").reindex([d.key for d in chosen if d.usable_gib])[
    P.configs
]
shown = shown.rename(columns=labels).reset_index(names="Device")
shown["Device"] = [next(d.name for d in chosen if d.key == k) for k in shown.Device]
display(
    Markdown(
        myst_table(
            shown,
            f"Memory (GiB) of the language model of {P.decoder} with {P.context:,} tokens: what it needs, or what the device is short by.",
            "tab-fits",
        )
    )
)

# %% [markdown]
# ## Projection
#
# A roofline is a bound. Published measurements of other people say which share of it real kernels reach; we fit those shares, and the time to
# launch a layer, to their logarithms. To validate, each published device is projected from the others, with an interval that has
# not seen it either. Tables of what to expect are fitted to all devices.

# %% mystnb={"figure": {"caption": "Projected against published latencies. Filled: tokens of a decoder; open: prompts and encoders. Each device is projected from the others. Bars: intervals from the errors of the other devices; the dotted line is equality.", "name": "fig-projection"}, "image": {"alt": "Log-log scatter of projected against measured milliseconds with intervals, a colour per device."}}
published = published_points(table)
validation = validate_projection(published, P.projection_level)
work.save_table("projection", validation.points.drop(columns=["source"]))
work.save_table("projection_errors", validation.by_step)
_, ax = plt.subplots(figsize=(7.2, 4.2))
projected_and_measured(validation.points, ax, {key: d.name for key, d in table.items()})
plt.show()

# %% tags=["hide-input"]
shown = validation.by_step.rename(columns={"step": "Step", "n": "Points", "devices": "Devices"})
for title, column in (("Mean error, %", "error"), ("Median error, %", "median_error"), ("Inside, %", "coverage")):
    shown[title] = (100 * validation.by_step[column]).map("{:.0f}".format)
shown = shown.drop(columns=["error", "median_error", "coverage"])
caption = f"Error of projections onto unseen devices, and how many published points lie inside their {100 * P.projection_level:g} % interval."
display(Markdown(myst_table(shown, caption, "tab-projection", dict.fromkeys(shown.columns[1:], str))))

# %% [markdown]
# Two cases that any projection should be asked about: a model of 8 billion weights that 4 bits make almost three times as fast on an AGX
# Orin, and one of 2 billion that they hardly help. A second projection is calibrated by the unquantized time on the device itself.

# %% tags=["hide-input"]
unseen = speedups(validation.points)
timed = published[published.weight.isin(("fp16", "bf16"))]
known = speedups(pd.concat([timed.assign(projected=timed.ms), calibrated(published)]))
ends = validation.points.assign(factor=validation.points.high / validation.points.projected)
factor = ends[ends.step == "decode"].groupby("device").factor.max()
work.save_table("speedups", unseen.assign(calibrated=known.projected))
decoding = unseen[unseen.step == "decode"]
display(
    Markdown(
        bullets(
            [
                speed_ratio_claim(
                    row, row.projected / factor[row.device], row.projected * factor[row.device], table[row.device].name
                )
                + f"; calibrated by the 16-bit model on the device {known.loc[at, 'projected']:.2f}x"
                for at, row in decoding.iterrows()
            ]
        )
    )
)

# %% [markdown]
# A model whose tokens take much longer than its bytes explain waits for something else, most likely for the host to launch
# its kernels; no roofline knows that. The remedy is a runtime with graphs, not fewer bits.
#
# ### What to expect
#
# One image through the vision encoder, and one token of the language model, on every device that has the facts.

# %% tags=["hide-input", "full-width"]
project = projector(published, P.projection_level)
tower = encoder_shape(P.encoder)


def projected(device, config, step):
    plan, other = scheme(config), wide[config]
    if step == "encode":
        step_work = encode_work(tower, bits[config], other_bits=other)
    else:
        step_work = decode_work(shape, bits[config], context=P.context, head_bits=other, kv_bits=other)
    try:
        return projection_text(project(step_work, device, plan.weight, plan.activation, step=step))
    except ValueError:
        return "no"


for step, what, name, missing in (
    ("encode", f"one image through {P.encoder}", "tab-images", " or a rate is not published"),
    ("decode", f"one token of {P.decoder}", "tab-tokens", "; memory alone decides, so no rate is needed"),
):
    shown = pd.DataFrame({"Device": [d.name for d in chosen[:-1]]})
    for config in P.configs:
        shown[labels[config]] = [projected(d, config, step) for d in chosen[:-1]]
    work.save_table(f"projected_{step}", shown)
    display(
        Markdown(
            myst_table(
                shown,
                f"Projected time (ms) of {what}, with {100 * P.projection_level:g} % intervals; 'no' where it does not run{missing}.",
                name,
            )
        )
    )

# %% [markdown]
# ## Sanity
#
# What must hold in every run: a file has its predicted size, a reloaded model gives the same answers, no published measurement beats
# the memory of its device, and no device runs what its family lacks.

# %%
assert (trip.file / trip.predicted).between(1, 1.02).all() and (trip.flips == 0).all()
assert (published.memory_ms / published.ms).max() < 1.05
assert not any(unit in d.rates for d in chosen for unit in d.lacks)
assert (encoders[encoders.config == "torch-fp32"].speedup == 1).all()
pd.Series(
    {"published points": len(published), "devices": len(chosen), "measured cases": len(encoders) + len(generation)}
).to_frame("counts")

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input"]
own = within.reset_index().query("batch == 1 and model == @single.model.iloc[0] and config != base")
fastest = own[~own.weight.isin(["fp32", "bf16"])].sort_values("p50").iloc[0]
runtime = single.set_index("config").speedup[fastest.base]
biggest = sizes[sizes.model == P.architectures[0]].set_index("config").bytes
smallest = biggest.idxmin()
points = [
    f"{P.architectures[0]} takes {biggest.iloc[0] / MIB:.1f} MiB in {labels[P.configs[0]]} and {biggest.min() / MIB:.1f} MiB in {labels[smallest]}, "
    f"{biggest.iloc[0] / biggest.min():.2f} times less",
    speedup_claim(
        fastest,
        fastest.config,
        fastest.base,
        f"{machine['name']} ({machine['threads']} thread(s)), one image at a time",
    )
    + (f", which is {runtime:.2f} times as fast as torch-fp32 itself" if fastest.base != "torch-fp32" else ""),
    validation_claim(validation),
]
display(Markdown(bullets(points)))
glue("answer", Sentence(f"{points[0][0].upper()}{points[0][1:]}; {points[1]}; {points[2]}."), display=False)

# %% [markdown]
# **What this does not show.** No power was measured. Times of one machine say nothing about another; projections say how little. Encoders
# and decoders have random weights, which changes no time. Where few devices were measured, as for prompts and images, intervals of
# projections are wide and their coverage is hardly known.
#
# **Rerun it.**
#
# ```console
# edgelib measure my-machine
# papermill notebooks/efficiency.ipynb out.ipynb -y "{measurements: my-machine, device_table: my-devices.yaml}"
# ```
#
# Next: {doc}`pareto` puts accuracy beside these costs.
