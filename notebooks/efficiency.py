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
# :::{admonition} Answer
# :class: tip answer
#
# {glue:text}`answer` {glue:text}`number`
#
# **Do this:** {glue:text}`advice`
# :::
#
# {glue:text}`scope`
#
# :::{note}
# Sizes on this page are predicted from shapes, and checked on files of the evaluated model. Times are *measured* on the machine that is named, or *projected* onto another device
# with an interval; never simulated. The page takes about a minute, because it reads stored measurements.
# :::
#
# ## Why it matters
#
# A format with half the bits does not make a file half as large, and a smaller file does not make a model twice as fast. What
# stays in floating point, what a kernel exists for, and whether bytes or arithmetic set the pace decide that. EdgeVLM-Bench {cite:p}`edgevlmbench`
# reports sizes of 32-bit models as 16-bit ones and times a simulator; Swift-VLM-Flow {cite:p}`swiftvlmflow` credits quantization with what a faster
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
split: str = "test"
n_images: int = 32
architectures: list[str] = ["clip-vit-base-patch32", "qwen2-vl-2b"]  # sizes from public dimensions
configs: list[str] = ["fp32", "fp16", "w8a8-minmax", "w8a16", "w4a8-minmax", "w4a16", "fp8", "nvfp4"]
measurements: Optional[str] = None  # folder made by `edgelib measure`; None: the published machine; "here": measure now
devices: Optional[list[str]] = None  # keys of the device table; None: all
device_table: Optional[str] = None  # a YAML file of a device of your own, or a folder of them
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

from edgelib.devices.device import legality
from edgelib.devices.gains import quantization_gains, separated_gains, speedup_table, swift_vlm_flow
from edgelib.devices.measurements import achieved, machine_device, named_cases
from edgelib.devices.projection import projector, published_points
from edgelib.devices.shapes import decoder as decoder_shape
from edgelib.devices.shapes import encoder as encoder_shape
from edgelib.devices.table import devices as device_rows
from edgelib.devices.table import select
from edgelib.devices.validation import validate as validate_projection
from edgelib.devices.workload import decode_work, encode_work
from edgelib.files.size import other_bits, weight_bits
from edgelib.infer.packed import packed_round_trip
from edgelib.models.architectures import architecture
from edgelib.quant.scheme import scheme

# %% tags=["hide-input"]
from edgelib.report import devices as tables
from edgelib.report.claims import devices as say_of
from edgelib.report.figures import devices as draw
from edgelib.report.figures.base import long_axis
from edgelib.report.figures.palette import labels
from edgelib.report.notebook import conclude, facts, foot, say, setup, show
from edgelib.report.tables import between, cross, escaped, interval, named, number
from edgelib.study.machine import measurements_of
from edgelib.study.timing.identity import identity

work = setup("efficiency", P.results)
MIB, names = 2**20, labels(P.configs)

# %% [markdown]
# ## Bytes of a file
#
# We expect half the bits to save less than half the bytes, because embeddings, norms and the first layers stay as they are.
# EdgeVLM-Bench gives CLIP ViT-B/32 in "FP16" as 577.1 MB {cite:p}`edgevlmbench`; that is the model in 32 bits, in MiB. What a configuration does not
# quantize has 16 bits in {numref}`tab-sizes`, as a file that one ships has, and as {doc}`pareto` counts it.

# %% tags=["hide-input", "full-width"]
sizes = work.save("sizes", tables.size_table(P.architectures, P.configs))
caption = "Packed size (MiB) predicted from public dimensions; what is not quantized in 16 bits (FP32: 32)."
shown = cross(sizes, "config", "model", number("bytes", "{:,.1f}", 1 / MIB), "Configuration")
show(shown, caption, "tab-sizes", numeric=P.architectures)

# %% [markdown]
# A prediction is worth what a file says. {numref}`tab-files` saves the evaluated model in every configuration that needs no
# calibration, reads it back and compares sizes and answers. A file may have a few bytes beyond the predicted ones, its header, and never
# fewer; the reloaded model must not answer differently.

# %% tags=["hide-input", "full-width"]
subject = P.load_model()
images = P.load_data()
ready = [config for config in P.configs if not scheme(config).needs_calibration]
trip = work.save("files", packed_round_trip(subject, ready, images))
columns = {"Configuration": named()}
columns |= {f"{title}, kB": number(title.lower(), "{:,.1f}", 1e-3) for title in ("Predicted", "File")}
columns |= {
    "File / predicted": number("ratio", "{:.4f}"),
    "Largest logit difference": number("max_difference", "{:.1g}"),
}
caption = f"Predicted size against the bytes of a file of {escaped(subject.name)}, and the reloaded model against the saved one."
trip = trip.assign(ratio=trip.file / trip.predicted)
show(trip, caption, "tab-files", columns | {"Answers that differ": "flips"})

# %% [markdown]
# ## Time of a kernel
#
# The same encoder on every kernel that was timed on one machine. Configurations take turns, so that whatever else
# the machine did met all of them alike; where others used much of the machine, ratios can be trusted more than times.

# %% tags=["hide-input"]
measured = measurements_of(P.measurements, work.folder / "measured")
here, machine = machine_device(measured), measured.machine
towers, generated = named_cases(measured.encoders), named_cases(measured.generation)
threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
where = f"{escaped(machine['name'])}, {threads}"
facts("measured on", tables.machine_facts(machine))

# %% [markdown]
# A kernel that is only smaller and no faster is common: narrow weights have to be widened before a product in 32 bits, which costs
# time of its own. We expect eight bits to help where the processor multiplies them natively, and four bits to help memory more than
# time.

# %% mystnb={"figure": {"caption": "Measured speed of the vision encoder by kernel, as a multiple of torch in 32 bits on the same machine in the same run. Right of one is faster. The smallest batch of the first model or part; medians.", "name": "fig-speed"}, "image": {"alt": "Dots of measured speed-up by kernel on a logarithmic axis with a line at one."}}
encoders = work.save("encoders", speedup_table(towers, "p50"))
smallest = (encoders.model == encoders.model.iloc[0]) & (encoders.batch == encoders.batch.min())
single = encoders[smallest].assign(name=lambda t: t.config)
draw.speedups(single.sort_values("speedup"), long_axis(len(single)), "Measured speed (multiple of torch-fp32)")
plt.show()

# %% [markdown]
# Two runtimes differ before any number is rounded. {numref}`tab-encoders` therefore compares each kernel twice: with torch in 32 bits,
# and with the 32 bits of its own runtime.

# %% tags=["hide-input", "full-width"]
within = quantization_gains(towers, "p50")
own = within.rename(columns={"speedup": "own", "low": "own_low", "high": "own_high"})
shown = encoders.merge(own[["model", "config", "batch", "own", "own_low", "own_high"]], on=["model", "config", "batch"])
columns = {"Model": "model", "Config": "config", "Batch": "batch"}
shown["per_s"] = 1e3 * shown.batch / shown.p50
columns |= {"Median, ms": number("p50"), "Quartiles, ms": between("p25", "p75"), "95th percentile, ms": number("p95")}
columns |= {
    "Items/s": number("per_s"),
    "Speed (range)": interval("speedup", 1, 2),
    "In its own runtime": interval("own", 1, 2),
}
caption = f"Measured time of an encoder on {where}. Speed: over torch-fp32; in its own runtime: over the 32 bits of the same runtime, which is what narrow numbers did. Ranges divide opposite quartiles."
show(shown, caption, "tab-encoders", columns | {"Weights, MiB": number("weights", "{:.0f}", 1 / MIB)})

# %% [markdown]
# {numref}`fig-roof` says what binds. A point near the slope waits for memory: fewer bits make it faster. A point near a level roof
# waits for arithmetic: only a kernel that computes in the narrow format helps. A point far below both waits for its kernel.

# %% mystnb={"figure": {"caption": "What the measured steps achieve under the ceilings of the same machine, each the best that was seen, in a product or in a model: bandwidth (slope) and matrix products (levels). Encoders lie to the right, tokens of a decoder to the left. A panel per model; roofs in 1e12 operations/s. A point above all roofs computes in a format whose ceiling was not measured.", "name": "fig-roof"}, "image": {"alt": "Roofline plot with measured points per model and kernel."}}
steps = {"p50": towers, "tpot_p50": generated}
points = pd.concat([achieved(cases, time) for time, cases in steps.items() if len(cases)], ignore_index=True)
points["name"] = points.model + ", " + points.config
work.save("roofline", points[["name", "batch", "intensity", "gb_s", "tops"]])
draw.roofline_panels(points, here)
plt.show()

# %% [markdown]
# ## First token, later tokens, memory
#
# TTFT is the time to the first token of a run, TPOT the time of each later one of the same run. With a long prompt the first is bound
# by arithmetic; a later one, or the first after a prompt of one token, reads all weights for a single token and is bound by memory
# if its kernel keeps up. Tokens per second count the whole batch and divide by the mean, where the other columns are medians. Compare
# kernels at the same batch and prompt only.

# %% tags=["hide-input", "full-width"]
generation = work.save("generation", generated)
columns = {"Model": "model", "Config": "config", "Batch": "batch", "Prompt": "prompt"}
columns |= {"TTFT, ms": number("ttft_p50"), "TPOT, ms": number("tpot_p50"), "TPOT, 95th percentile": number("tpot_p95")}
parts = {"Image tokens": "image_tokens", "Image ready, ms": "prepare_p50", "Image encoded, ms": "encode_p50"}
columns |= {title: number(column, "{:.4g}") for title, column in parts.items() if column in generation}
columns |= {"Tokens/s": number("tokens_per_s"), "KV, MiB": number("kv", scale=1 / MIB)}
generation["peak"] = generation.weights + generation.kv + generation.activations + generation.workspace
columns |= {"Weights, MiB": number("weights", "{:.0f}", 1 / MIB), "Peak, MiB": number("peak", "{:.0f}", 1 / MIB)}
caption = f"Measured generation on {escaped(machine['name'])}: medians of time to the first token and per later token, in the same runs."
if len(generation):
    show(generation, caption, "tab-generation", columns)

# %% tags=["hide-input"]
say("" if len(generation) else f"No generation was timed: {machine['model']['name']} does not write")
skipped = tables.skipped_cases(machine)
if len(skipped):
    show(skipped, "Cases without a settled median, and why.", "tab-skipped")

# %% mystnb={"figure": {"caption": "Measured memory of a decoder by use: weights, keys and values of the cache, activations of a step, and what libraries hold beyond. The smallest and the largest case (batch x prompt) of each kernel: weights dominate, the cache grows with batch and prompt.", "name": "fig-memory"}, "image": {"alt": "Stacked horizontal bars of memory per model, configuration, batch and prompt."}}
rows = generation.sort_values("kv", kind="stable").groupby(["model", "config"]).nth([0, -1]).sort_index()
case = rows.batch.astype(str) + " x " + rows.prompt.astype(str)
rows = rows.assign(name=rows.model + " " + rows.config.str.removeprefix("torch-") + ", " + case)
if len(rows):
    draw.memory_split(rows, long_axis(len(rows), 0.28, 6.8))
    plt.show()

# %% [markdown]
# ### Whose gain is it?
#
# Swift-VLM-Flow compares quantized engines of one runtime with an unquantized model in another. Dividing by its own unquantized
# engine {cite:p}`swiftvlmflow` leaves what quantization did. The last columns add the memory it reports: the engines take more than the model they replace.

# %% tags=["hide-input", "full-width"]
gains = separated_gains(swift_vlm_flow(), ["ttft_speedup", "decode_speedup"], "TRT BF16").reset_index(names="config")
work.save("gains", gains)
parts = {"TTFT": "ttft_speedup", "Decode": "decode_speedup"}
other = gains.index == 0  # the model in the other runtime
gains = gains.mask(other[:, None] & gains.columns.str.endswith("_quantization"))
columns = {"Configuration": "config"}
for title, gain in parts.items():
    columns[f"{title}, reported"] = number(gain, "{:.2f}x")
    columns[f"{title}, by quantization"] = number(f"{gain}_quantization", "{:.2f}x", missing="other runtime")
caption = "Speed-ups that Swift-VLM-Flow reports for Qwen2-VL-2B on an RTX 5060 Ti, and what is left of them against the same runtime in BF16."
gains["memory"] = gains.static_gb + gains.dynamic_gb
show(gains, caption, "tab-gains", columns | {"Memory, GB": number("memory", "{:.2f}")})

# %% [markdown]
# ## Devices
#
# One row of facts per device, each with its source; a device of your own is one more row in a file that the parameter `device_table`
# names. What a vendor's source was not seen for is marked. Rates are dense and those of the unit a model would run on.

# %% tags=["hide-input", "full-width"]
known = device_rows(P.device_table)
others = select(known, P.devices or list(known))
chosen = [*others, here]
caption = "Devices. A star marks what no source of the vendor confirms, a question mark a rate that is not published."
show(work.save("devices", tables.device_facts(chosen, here)), caption, "tab-devices")

# %% [markdown]
# Vendors quote rates with sparsity, which doubles them, and of all units together; neither is what a dense model meets. Bandwidth is
# the number to look at first: every token of a decoder reads all weights once. {numref}`fig-legal` asks another question, whether a
# device can compute with a format at all. A cell that says no does not mean that the model cannot be loaded, only that its numbers are
# widened first and no time is saved.

# %% mystnb={"figure": {"caption": "Which configurations compute on which device. Narrow weights beside 16-bit activations run wherever 16-bit arithmetic does, because they are decoded first; narrow activations need units of their own.", "name": "fig-legal"}, "image": {"alt": "Grid of devices by configurations with runs or no in each cell."}}
by_key = {device.key: device.name for device in chosen}
legal = work.save("legality", legality(chosen, {config: scheme(config).units for config in P.configs}))
draw.legality_grid(legal, long_axis(len(chosen), 0.3, 7.2), by_key, names)
plt.show()

# %% tags=["hide-input"]
refusals = say_of.refusal_claims(legal.assign(reason=legal.reason.map(escaped)), by_key, names)
say(refusals, otherwise="Every configuration runs on every device")

# %% [markdown]
# ### Does it fit?
#
# All that is in memory at once, against what the operating system leaves: both towers, what joins them, embeddings and output head,
# keys and values of the context and of an image, activations, and the runtime that has a kernel. {doc}`pareto` shows the parts.

# %% tags=["hide-input", "full-width"]
shape, vision = decoder_shape(P.decoder), architecture("clip-vit-base-patch32").vision_model
bits = {config: weight_bits(vision, config) for config in P.configs}
fits = work.save("fits", tables.fit_table(P.decoder, P.configs, chosen, P.context))
shown = cross(fits.replace({"device": by_key}), "device", "config", tables.fit(), "Device")
caption = f"Memory (GiB) of {P.decoder} with {P.context:,} tokens and an image: what it needs in all, or what the device is short by."
show(shown, caption, "tab-fits")

# %% [markdown]
# ## Projection
#
# A roofline is a bound. Published measurements of other people say which share of it real kernels reach; we fit those shares, and the time to
# launch a layer, to their logarithms. To validate, each published device is projected from the others, with an interval that has
# not seen it either. Tables of what to expect are fitted to all devices.

# %% mystnb={"figure": {"caption": "Projected against published latencies, a panel per step: an image encoded, a prompt read, a later token written. Each device is projected from the others. Bars: intervals from the errors of the other devices; the dotted line is equality.", "name": "fig-projection"}, "image": {"alt": "Log-log scatter plots of projected against measured milliseconds with intervals, one per step, a colour per kind of runtime."}}
published = published_points(known)
validation = validate_projection(published, P.projection_level)
work.save("projection", validation.points.drop(columns=["source"]))
every = dict(zip(published.device, published.device_name, strict=True))
draw.projection_panels(validation.points)
plt.show()

# %% [markdown]
# Bars that miss the dotted line are intervals that did not hold. {numref}`tab-projection` counts them: the share inside should be near
# the level, and for steps with few devices it is a rough count.

# %% tags=["hide-input"]
columns = {"Step": "step", "Points": "n", "Devices": "devices"}
columns |= {"Mean error, %": number("error", "{:.0f}", 100), "Median error, %": number("median_error", "{:.0f}", 100)}
caption = f"Error of projections onto unseen devices, and how many published points lie inside their {100 * P.projection_level:g} % interval."
by_step = work.save("projection_errors", validation.by_step)
columns |= {"Inside, %": number("coverage", "{:.0f}", 100), "Factor either way": number("factor", "{:.1f}")}
show(by_step, caption, "tab-projection", columns)

# %% [markdown]
# Two published cases {cite:p}`lin2024` that any projection should be asked about stand among these: a model of 8 billion weights that 4 bits make almost three times
# as fast on an AGX Orin, and one of 2 billion that they hardly help. A second projection is calibrated by the unquantized time on the device itself.

# %% tags=["hide-input"]
ratios = tables.speed_ratios(validation.points, published)
work.save("speedups", ratios.drop(columns=["low", "high"]))
decoding = ratios[ratios.step == "decode"].assign(device=lambda t: t.device.map(every))
caption = f"How many times as fast tokens are with narrow weights: measured by others, projected with the widest {100 * P.projection_level:g} % interval there, and calibrated by the 16-bit model on the device."
if len(decoding):
    show(decoding, caption, "tab-ratios", tables.ratio_columns())
ends = decoding.loc[[decoding.measured.idxmax(), decoding.measured.idxmin()]] if len(decoding) else decoding
say(say_of.speed_ratio_claim(row, row.device) for _, row in ends.iterrows())

# %% [markdown]
# A model whose tokens take much longer than its bytes explain waits for something else, most likely for the host to launch
# its kernels; no roofline knows that. The remedy is a runtime with graphs, not fewer bits. The calibrated ratio is the better guess where
# it is near the measured one; it costs one run of the unquantized model on the device.
#
# ### What to expect
#
# One image through the vision encoder, and one token of the language model, on every device that has the facts. Divide two numbers of
# one row to see what a format buys there; two rows of one column are two devices with errors of their own.

# %% tags=["hide-input", "full-width"]
project, tower = projector(published, P.projection_level), encoder_shape(P.encoder)
level = f"with {100 * P.projection_level:g} % intervals; 'no' where it does not run"
works = {config: encode_work(tower, bits[config], other_bits=other_bits(config)) for config in P.configs}
times = work.save("projected_encode", tables.projected_times(project, works, others, "encode"))
show(times, f"Projected time (ms) of one image through {P.encoder}, {level} or a rate is not published.", "tab-images")

# %% tags=["hide-input", "full-width"]
wide = {config: {"head_bits": other_bits(config), "kv_bits": other_bits(config)} for config in P.configs}
works = {config: decode_work(shape, bits[config], context=P.context, **wide[config]) for config in P.configs}
times = work.save("projected_decode", tables.projected_times(project, works, others, "decode"))
caption = f"Projected time (ms) of one token of {P.decoder}, {level}; memory alone decides, so no rate is needed."
show(times, caption, "tab-tokens")

# %% tags=["hide-input"]
work_of = encode_work(tower, 16, other_bits=16)
runs_fp16 = [device for device in others if device.rates.get("fp16")]
said = [(device, project(work_of, device, "fp16", "fp16", step="encode")) for device in runs_fp16]
left = [project.after_one(work_of, device, "fp16", "fp16", step="encode") for device in runs_fp16]
narrowed = [(device.name, found.factor, after) for (device, found), after in zip(said, left, strict=True)]
narrowed = pd.DataFrame(narrowed, columns=["Device", "now", "after"])
columns = {"Device": "Device", "Factor either way": number("now"), "After timing one image there": number("after")}
caption = f"How far {100 * P.projection_level:g} % intervals of one image through {P.encoder} reach, before and after the unquantized model was timed on the device."
if len(narrowed):
    show(narrowed, caption, "tab-narrowing", columns)
    worst = narrowed.now.idxmax()
    say([say_of.narrowing_claim(said[worst][1], left[worst], said[worst][0].name, "encode")])

# %% [markdown]
# ## Sanity
#
# What must hold in every run: a file has its predicted size, a reloaded model gives the same answers, no published measurement beats
# the memory of its device, and no device runs what its family lacks.

# %%
assert trip.ratio.between(1, 1.02).all() and (trip.flips == 0).all()
assert (published.memory_ms / published.ms).max() < 1.05
assert not any(unit in device.rates for device in chosen for unit in device.lacks)
assert (encoders[encoders.config == "torch-fp32"].speedup == 1).all()
cases = len(encoders) + len(generation)
facts("counts", published_points=len(published), devices=len(chosen), measured_cases=cases)

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input"]
of_one = within.merge(single[["model", "batch", "config"]]).query("config != base and weight not in ['fp32', 'bf16']")
on, speed = f"{machine['name']} ({threads}), batch {single.batch.iloc[0]}", None
fastest = None
if len(of_one):
    fastest = of_one.sort_values("p50").iloc[0]
    runtime = single.set_index("config").speedup[fastest.base]
    itself = f", which is {runtime:.2f} times as fast as torch-fp32 itself" if fastest.base != "torch-fp32" else ""
    speed = say_of.speedup_claim(fastest, fastest.config, fastest.base, on) + itself
largest = sizes[sizes.model == P.architectures[0]].set_index("config").bytes
size, projected = say_of.size_claim(largest, P.architectures[0], names), say_of.validation_claim(validation)
say([size, *([speed] if speed else []), projected])
narrow = [c for c in P.configs if fastest is not None and scheme(c).weight == fastest.weight]
opening = say_of.efficiency_opening(largest, narrow, names, fastest, on, validation)
conclude(opening, say_of.one_model_claim(machine, identity(subject)))

# %% [markdown]
# **What this does not show.** No power was measured. Times of one machine say nothing about another; projections say how little. Where public
# dimensions were timed, weights are random, which changes no time. Where few devices were measured, as for prompts and images, intervals of
# projections are wide and their coverage is hardly known.
#
# **Rerun it.**
#
# ```console
# edgelib measure my-times --model ./my-clip --suite quick
# papermill notebooks/efficiency.ipynb out.ipynb -y "{model: ./my-clip, architectures: [./my-clip], measurements: my-times}"
# ```
#
# Next: {doc}`pareto` puts accuracy beside these costs.

# %% tags=["remove-input"]
foot(P.provenance())
