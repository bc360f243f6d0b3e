"""How a chapter opens: one plain sentence, one number with its interval, and what to do; each made of tests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from edgelib.quant.scheme import scheme
from edgelib.report.claims.text import Sentence, interval_text, names_text, one_of, points_text
from edgelib.report.figures.palette import label, readable
from edgelib.report.tables import with_interval
from edgelib.stats.family import Family
from edgelib.stats.ladder import Recovery
from edgelib.stats.recommend import Recommendation

DRAWN = ("scenes", "scenes-vqa")  # data sets that ship with the code


@dataclass(frozen=True)
class Opening:
    """answer: one sentence that can be acted on. number: one quantity with its interval. advice: what to do."""

    answer: str
    number: str
    advice: str

    def __post_init__(self) -> None:
        for part in ("answer", "number", "advice"):
            text = getattr(self, part)
            object.__setattr__(self, part, Sentence(text[:1].upper() + text[1:]))


def scope_claim(model: str, dataset: str, answers: str = "accuracies") -> str:
    """Say whose accuracies a page shows: of a small model that ships with the code, or of the reader's own.

    model, dataset: as the parameters name them; of a path only its last part is shown.
    """
    from edgelib.models.load import embedded_models

    known = model in (*embedded_models(), *embedded_models(writes=True))
    drawn = dataset in DRAWN
    if known and drawn:
        return (
            f"Synthetic: the {answers} are those of {model}, a small model trained on drawn scenes. "
            "Read which way things move, and run it on your own model for how far"
        )
    if known or drawn:
        part = f"{model} is a small embedded model" if known else f"the images of {dataset} are drawn"
        return f"Partly synthetic: {part}; read which way things move, and not how far"
    return f"The {answers} are those of {shown(model)} on {shown(dataset)}, simulated"


def shown(named: str) -> str:
    """What a page calls a model or a data set: a folder or a file by its last name, a hub id or our own as it is."""
    return Path(named).name if Path(named).is_absolute() or Path(named).exists() else named


def world_opening(name: str, scored: pd.Series, n: int, change: str) -> Opening:
    """Open the chapter on the embedded world.

    scored: accuracy with low and high, fractions, on n scenes. change: the most that a twin changes a class score.
    """
    share = with_interval(scored["accuracy"], scored["low"], scored["high"])
    return Opening(
        "drawn scenes can stand in for the experiments of this book, and not for the accuracy of your model",
        f"the model {name} names the shape in {share} % of {n:,} unseen scenes; planting outliers changes no class "
        f"score by more than {change}",
        "read the other pages for what breaks a format and how one sees it, then run them on your own model",
    )


def world_claim(name: str, scored: pd.Series, n: int, chance: float) -> str:
    """Say whether a model knows the drawn shapes, by the interval of its accuracy beside chance.

    scored: accuracy with low and high, fractions, on n scenes. chance: the accuracy of guesses, a fraction.
    """
    share = with_interval(scored["accuracy"], scored["low"], scored["high"])
    if scored["low"] > chance:
        verdict = "enough to have something to lose"
    else:
        verdict = f"not shown to be above the {100 * chance:.1f} % of chance, so it has nothing to lose here"
    return f"The model {name} names the shape in {share} % of {n:,} held-out scenes: {verdict}"


def twin_text(twin: str) -> str:
    """A twin in words: "weight:8" -> "outliers of strength 8 in the weights"."""
    kind, _, dose = twin.partition(":")
    places = {"weight": "the weights", "activation": "the activations", "key": "the keys", "value": "the values"}
    if kind == "key-offset":
        return f"a constant of {dose} in the keys"
    if kind == "spike":
        return f"a first token {dose} times as large in the MLPs"
    if kind in ("key-all", "value-all"):
        return f"all {kind.removesuffix('-all')}s {dose} times as large"
    return f"outliers of strength {dose} in {places[kind]}" if kind in places else twin


def gap_opening(tests: Family, costs: pd.DataFrame, reference: str, planted: pd.DataFrame | None = None) -> Opening:
    """Open the chapter on what corruption costs and what quantization adds to it.

    tests: gaps by configuration. costs: of `corruption_costs`; fog is named if it was asked for, else the first
    corruption. planted: scores on twins, of `by_dose`, with the plain model.
    """
    estimated = {str(config): test for config, test in tests.tests.items() if not test.unknown}
    wider = [str(config) for config in tests.settled() if tests[config].effect > 0]
    level = next(iter(tests.tests.values())).level
    first, number = _first_weather(costs, reference, level)
    if not estimated:
        why = "; ".join(dict.fromkeys(test.unknown for test in tests.tests.values()))
        answer = f"{first}; whether quantization adds to that cannot be said: {why}"
        return Opening(answer, number, "take more images, or configurations that still answer, and run it again")
    most = max(estimated, key=lambda config: estimated[config].scales.loc["accuracy"].high)
    added = 100 * estimated[most].scales.loc["accuracy"].high
    number += (
        "; what quantization adds, so few images cannot say"
        if not math.isfinite(added)
        else f"; over all corruptions, quantization adds at most {added:.1f} points ({label(most)}, upper end)"
        if added > 0
        else "; over all corruptions, quantization is not shown to add any"
    )
    if wider:
        verb = "loses" if len(wider) == 1 else "lose"
        answer = f"{first}; {names_text(map(label, wider))} {verb} more to corruption than it"
        others = [label(config) for config in estimated if config not in wider]
        pick = f"prefer {one_of(others)}" if others else "test every format on degraded images before shipping it"
    else:
        answer = f"{first}; {_none_of(estimated)} shown to lose more to corruption than it"
        pick = "choose the format by its clean accuracy"
    beware = _worst_twin(planted) if planted is not None and len(planted) else ""
    return Opening(answer, number, f"{pick}, and prepare for {_worst_weather(costs, reference)}{beware}")


def _first_weather(costs: pd.DataFrame, reference: str, level: float) -> tuple[str, str]:
    """What one corruption costs: the reference at each severity, and at the last one with its interval and beside the
    other configurations."""
    name = "fog" if (costs["corruption"] == "fog").any() else costs["corruption"].iloc[0]
    rows = costs[costs["corruption"] == name].sort_values("severity")
    own = rows[rows["config"] == reference]
    points = [f"{100 * cost + 0.0:.0f}" for cost in own["cost"]]
    severities = [str(severity) for severity in own["severity"]]
    last = own.iloc[-1]
    others = rows[(rows["severity"] == last.severity) & (rows["config"] != reference)]["cost"]
    answer = (
        f"{readable(str(name))} costs {label(reference)} {names_text(points, len(points))} points of accuracy at "
        f"severity {names_text(severities, len(severities))}"
    )
    number = (
        f"at severity {last.severity} {readable(str(name))} costs {label(reference)} {100 * last.cost:.1f} points "
        f"({interval_text((last.low, last.high), level, 100)})"
    )
    if len(others):
        number += f", and {100 * others.min():.1f} to {100 * others.max():.1f} points in the quantized configurations"
    return answer, number


def _worst_twin(planted: pd.DataFrame) -> str:
    """What planted outliers do to the configuration that they leave least of, if its intervals with and without them
    lie apart; "" where they do not."""
    plain = planted[planted["kind"] == "plain"].set_index("config")
    rows = planted[(planted["kind"] != "plain") & planted["config"].isin(plain.index)]
    rows = rows[rows["clean_high"].to_numpy() < plain.loc[rows["config"], "clean_low"].to_numpy()]
    if not len(rows):
        return ""
    worst = rows.loc[rows["clean"].idxmin()]
    share = with_interval(worst.clean, worst.clean_low, worst.clean_high)
    return (
        f"; look for outliers in your model first: with {twin_text(worst.twin)}, {label(worst.config)} names {share} % "
        f"of {worst.n_items:,} clean images, without them {100 * plain.loc[worst.config, 'clean']:.1f} %"
    )


def _worst_weather(costs: pd.DataFrame, reference: str) -> str:
    """The corruption that costs the reference most, and what it costs every configuration, in points."""
    own = costs[costs.config == reference]
    worst = own.loc[own["cost"].idxmax()]
    same = costs[(costs.corruption == worst.corruption) & (costs.severity == worst.severity)].cost
    least, most = f"{100 * same.min():.0f}", f"{100 * same.max():.0f}"
    points = f"{least} to {most} points, by configuration" if least != most else f"{most} points in every configuration"
    return f"{readable(worst.corruption)}: at severity {worst.severity} it costs {points}"


def answers_opening(
    tests: Family, planted: Family, tasks: Mapping[str, str], reference: str, real: pd.DataFrame | None = None
) -> Opening:
    """Open the chapter on written answers.

    tests: (task, config) -> difference to the reference. planted: (twin, config) -> the same on a twin. tasks: those
    whose points are hundredths, and their names. real: differences of a model with a real decoder, `tests` as a table;
    what is shown to lose in these tasks there is not advised, whatever its groups.
    """
    cells, twins = _pairs(tests), _pairs(planted)
    configs = list(dict.fromkeys(config for _, config in cells))
    lost = list(dict.fromkeys(config for _, config in _pairs(tests, lost=True)))
    hurt = _pairs(planted, lost=True)
    ref, number = label(reference), ""
    if lost:
        answer = f"{names_text(map(label, lost))} {'answers' if len(lost) == 1 else 'answer'} worse than {ref}"
    else:
        answer = f"{_none_of(configs)} shown to answer worse than {ref}"
    if hurt:
        twin, config = worst = min(hurt, key=lambda key: planted[key].effect)
        answer += " on the plain model, but outliers change that" if not lost else ", and outliers cost answers too"
        number = (
            f"with {twin_text(twin)}, {label(config)} loses {-100 * planted[worst].effect:.1f} points "
            f"({interval_text(_mirrored(planted[worst].interval), planted[worst].level, 100)})"
        )
    if not hurt or not lost:
        key = min((key for key in cells if key[0] in tasks), key=lambda key: tests[key].interval[0])
        possible = (
            f"the loss that stays possible is {max(0.0, -100 * tests[key].interval[0]):.1f} points of "
            f"{tasks[key[0]]} ({label(key[1])}: {100 * tests[key].effect:+z.1f} points, "
            f"{interval_text(tests[key].interval, tests[key].level, 100)})"
        )
        number = f"{number}; on the plain model {possible}" if number else possible
    bad = {config for _, config in hurt} | set(lost)
    tried = list(dict.fromkeys(config for _, config in twins)) or configs
    safe = [config for config in tried if config not in bad]
    if not safe:
        return Opening(answer, number, f"stay with {ref} until a configuration is shown to keep the answers")
    lost_there = {} if real is None else _real_losses(real[real["task"].isin(tasks)], safe)
    safe = [config for config in safe if config not in lost_there]
    beware = "; ".join(dict.fromkeys(lost_there.values()))
    if not safe:
        return Opening(answer, number, f"stay with {ref}: {beware}")
    found = [tests[task, config].interval[0] for config in safe for task in tasks if (task, config) in cells]
    loses = (
        f"loses at most {max(0.0, -100 * min(found)):.1f} points here, the lower end of its interval" if found else ""
    )
    who = "it" if len(safe) == 1 else "each"
    bound = f". {who.capitalize()} {loses}" if loses else ""
    there = f". {beware[0].upper()}{beware[1:]}: see Twins against nature" if beware else ""
    return Opening(answer, number, f"take {one_of(map(label, safe), 4)}{bound}{there}")


def _real_losses(real: pd.DataFrame, configs: Iterable[str]) -> dict[str, str]:
    """{config: what a real decoder loses with the same numbers and method}, for those whose loss is settled there."""
    lost = real[(real["p_holm"] < 0.05) & (real["high"] < 0)].sort_values("effect", ascending=False)
    said = {}
    for row in lost.itertuples():  # the largest loss of a kind comes last
        points, least, most = (f"{-100 * loss:.1f}" for loss in (row.effect, row.high, row.low))
        said[_kind(row.config)] = f"a real decoder loses {points} points with {label(row.config)} ({least} to {most})"
    return {config: said[kind] for config in configs if (kind := _kind(config)) in said}


def _kind(config: str) -> tuple[str, ...]:
    """The numbers and the method of a configuration, whatever its groups."""
    found = scheme(config)
    return found.weight, found.activation, found.method


def cache_opening(
    recovered: Mapping[str, Recovery],
    name: str,
    plain: str,
    mended: Sequence[str],
    lost_scale: float | None,
) -> Opening:
    """Open the chapter on the key-value cache.

    recovered: twin -> recovery of the usual cache, the plain model among them. mended: what caches are called that are
    shown to be non-inferior on every twin. lost_scale: points that a scale costs which is lost on the way, or None.
    """
    own, failed = recovered[plain], [twin for twin, r in recovered.items() if not r.non_inferior]
    margin = points_text(own.test.margin)
    numbers = (
        f"{name} differs from the exact cache by {100 * own.test.effect:+z.1f} points of accuracy "
        f"({interval_text(own.test.interval, 1 - 2 * own.alpha, 100)}, margin {margin})"
    )
    hurt = [twin for twin in failed if twin != plain]
    unsafe = f"not shown with {names_text(map(twin_text, hurt))}"
    safe = f"{name} is safe on this model as it is: shown to lose less than {margin} against the exact cache"
    if plain in failed:
        answer = f"whether {name} is safe is not shown: it may lose more than {margin}"
    elif hurt:
        answer = f"{safe}; {unsafe}"
    else:
        answer = f"{safe}, and with every kind of planted outlier too"
    advice = "calibrate the scales"
    if lost_scale is not None and lost_scale > 0:
        advice += f", check that they reach the kernel (a planted fault that loses them costs {lost_scale:.0f} points)"
    if hurt or plain in failed:
        other = f"; where the keys look like that, take {one_of(mended)}" if mended else "; then keep 16 bits"
        advice += f", and run the doctor below on your model{other}"
    return Opening(answer, numbers, advice)


def calibration_opening(
    choice: Recommendation, settings: Mapping, mixes: Family, where: str, drawn: str, first: str
) -> Opening:
    """Open the chapter on calibration images.

    choice: the recommendation on the plain model, `settings` its columns or those of the best. mixes: mix ->
    difference to the `first` mix of one configuration, `drawn`, on one twin, `where`.
    """
    name = f"{label(settings['config'])} with {settings['size']} images"
    if choice.choice is None:
        answer = (
            f"no setting is shown to be within {points_text(choice.margin)} of every other; the best mean has {name}"
        )
    else:
        answer = f"{name} is enough: it is shown to be within {points_text(choice.margin)} of every other setting"
    on = "on the plain model" if ":" not in where else f"with {twin_text(where)}"
    worse = [str(mix) for mix in mixes.settled() if mixes[mix].effect < 0]
    if worse:
        worst = min(worse, key=lambda mix: mixes[mix].effect)
        test = mixes[worst]
        number = (
            f"the kind of images matters most for {label(drawn)} {on}: {readable(worst)} images cost it "
            f"{-100 * test.effect:.1f} points against {readable(first)} ones "
            f"({interval_text(_mirrored(test.interval), test.level, 100)})"
        )
        kinds = names_text(map(readable, worse), len(worse), "or")
        return Opening(
            answer, number, f"calibrate on {readable(first)} images, and on no {kinds} ones if you ship {label(drawn)}"
        )
    largest = max((test.mde for test in mixes.tests.values()), default=math.nan)
    number = f"no other kind of images is shown to cost {label(drawn)} anything {on}"
    number += f"; one such test finds {100 * largest:.1f} points four times in five" if math.isfinite(largest) else ""
    return Opening(answer, number, f"calibrate on {readable(first)} images, and do not collect more than that")


def _none_of(configs: Iterable[str]) -> str:
    """The start of "none of so many is shown", or the name where there is one."""
    configs = list(configs)
    several = f"none of {len(configs)} quantized configurations is"
    return f"{label(configs[0])} is not" if len(configs) == 1 else several


def _pairs(family: Family, lost: bool = False) -> list[tuple[str, str]]:
    """The keys of a family of two names, all of them or those whose loss is settled."""
    keys = [key for key in family.settled() if family[key].effect < 0] if lost else list(family)
    return [(key[0], key[1]) for key in keys]


def _mirrored(interval: tuple[float, float]) -> tuple[float, float]:
    """The interval of a loss from that of a difference."""
    return -interval[1], -interval[0]
