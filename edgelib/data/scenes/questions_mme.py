"""MME on scenes: fourteen sub-tasks, each image asked one question that is true of it and one that is not.

Fu et al., "MME: a comprehensive evaluation benchmark for multimodal large language models", 2023. These are synthetic
stand-ins, never MME scores. Existence, count, position, color, numerical_calculation, text_translation (into German)
and code_reasoning ask what MME asks, of scenes. What scenes cannot show stands for another attribute of theirs:

- posters: the pattern of the background; artwork: which object is the largest; celebrity: what the largest object is;
- scene: whether the background is bright or dark; landmark: which of two objects is on the left;
- OCR: whether a label, a colour and a shape, describes an object; commonsense_reasoning: what rolls or has straight
  edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from edgelib.data.scenes.questions_scene import Draws, Scene, scene_name, with_article, wording
from edgelib.data.scenes.questions_vqa import clearly_largest, german_shape, off_centre, other_than, side_by_side
from edgelib.data.scenes.records import COLOURS, TEXTURES
from edgelib.data.scenes.shapes import SHAPES

Pair = tuple[dict[str, str], ...]  # what fills the phrasing in the true and in the false question
_BRIGHT, _DARK = 0.52, 0.38  # mean of the background from which, and up to which, a place is bright or dark


def _existence(scene: Scene, draws: Draws) -> Pair:
    there = [thing.shape for thing in scene.things]
    shapes = draws.pick(there), other_than(SHAPES, there, draws)
    return tuple({"a_shape": with_article(shape)} for shape in shapes)


def _count(scene: Scene, draws: Draws) -> Pair:
    n = len(scene.things)
    return tuple({"number": wording()["numbers"][k]} for k in (n, draws.pick([k for k in range(1, 5) if k != n])))


def _position(scene: Scene, draws: Draws) -> Pair | None:
    sides = off_centre(scene)
    if not sides:
        return None
    thing, side = draws.pick(sides)
    return tuple({"shape": thing.shape, "side": s} for s in (side, "right" if side == "left" else "left"))


def _color(scene: Scene, draws: Draws) -> Pair:
    thing = draws.pick(scene.things)
    colours = thing.colour, other_than(COLOURS, [thing.colour], draws)
    return tuple({"shape": thing.shape, "colour": colour} for colour in colours)


def _texture(scene: Scene, draws: Draws) -> Pair:
    textures = scene.texture, other_than(TEXTURES, [scene.texture], draws)
    return tuple({"texture": texture} for texture in textures)


def _identity(scene: Scene, draws: Draws) -> Pair | None:
    thing = clearly_largest(scene)
    if thing is None:
        return None
    return tuple({"a_shape": with_article(s)} for s in (thing.shape, other_than(SHAPES, [thing.shape], draws)))


def light_of(scene: Scene) -> str | None:
    """Whether the background is dark or bright, None if it is neither clearly."""
    dark, bright = wording()["lights"]
    return bright if scene.brightness >= _BRIGHT else dark if scene.brightness <= _DARK else None


def _light(scene: Scene, draws: Draws) -> Pair | None:
    light = light_of(scene)
    if light is None:
        return None
    return tuple({"light": each} for each in sorted(wording()["lights"], key=lambda each: each != light))


def _relation(scene: Scene, draws: Draws) -> Pair | None:
    pairs = side_by_side(scene)
    if not pairs:
        return None
    thing, other, side = draws.pick(pairs)
    sides = side, "right" if side == "left" else "left"
    return tuple({"colour": thing.colour, "other": other.colour, "side": s} for s in sides)


def _size(scene: Scene, draws: Draws) -> Pair | None:
    thing = clearly_largest(scene)
    if thing is None or len(scene.things) == 1:
        return None
    smaller = draws.pick([t for t in scene.things if t is not thing])
    return {"shape": thing.shape}, {"shape": smaller.shape}


def _label(scene: Scene, draws: Draws) -> Pair:
    thing = draws.pick(scene.things)
    wrong = (
        (other_than(COLOURS, [thing.colour], draws), thing.shape)
        if draws.chance(0.5)
        else (thing.colour, other_than(SHAPES, [thing.shape], draws))
    )
    return tuple({"colour": colour, "shape": shape} for colour, shape in ((thing.colour, thing.shape), wrong))


def _common_sense(scene: Scene, draws: Draws) -> Pair | None:
    """The two questions differ in what they ask of one object: what rolls has no straight edges."""
    rolls, edges = wording()["rolls"], wording()["straight_edges"]
    known = [thing for thing in scene.things if thing.shape in (*rolls, *edges)]
    if not known:
        return None
    thing = draws.pick(known)
    asked = ("roll", "edges") if thing.shape in rolls else ("edges", "roll")
    return tuple({"colour": thing.colour, "ask": ask} for ask in asked)


def _sums(scene: Scene, draws: Draws, combine: Callable[[int, int], int], numbers: tuple[int, ...]) -> Pair:
    n, number, words = len(scene.things), draws.pick(numbers), wording()["numbers"]
    wrong = draws.pick([k for k in range(1, 4) if k != n])
    return tuple({"number": words[number], "result": words[combine(k, number)]} for k in (n, wrong))


def _calculation(scene: Scene, draws: Draws) -> Pair:
    return _sums(scene, draws, lambda n, number: n + number, (1, 2, 3, 4))


def _code(scene: Scene, draws: Draws) -> Pair:
    return _sums(scene, draws, lambda n, number: n * number, (2, 3))


def _translation(scene: Scene, draws: Draws) -> Pair:
    thing = draws.pick(scene.things)
    shapes = thing.shape, other_than(SHAPES, [thing.shape], draws)
    return tuple({"colour": thing.colour, "form": german_shape(shape).capitalize()} for shape in shapes)


# Sub-task, by MME's names: how its pair is made; None if a scene does not allow one.
PAIRS: dict[str, Callable[[Scene, Draws], Pair | None]] = {
    "existence": _existence,
    "count": _count,
    "position": _position,
    "color": _color,
    "posters": _texture,
    "celebrity": _identity,
    "scene": _light,
    "landmark": _relation,
    "artwork": _size,
    "OCR": _label,
    "commonsense_reasoning": _common_sense,
    "numerical_calculation": _calculation,
    "text_translation": _translation,
    "code_reasoning": _code,
}


def mme_pair(category: str, scene: Scene, draws: Draws) -> list[dict[str, str]] | None:
    """The question that is true and the one that is not: question, answer ("Yes" or "No"), category."""
    pair = PAIRS[category](scene, draws)
    if pair is None:
        return None
    ask, ending = wording()["mme"][category], wording()["mme_ending"]
    texts = [(ask[slots["ask"]] if "ask" in slots else ask).format(**slots) + ending for slots in pair]
    return [
        dict(question=text, answer=answer, category=category) for text, answer in zip(texts, ("Yes", "No"), strict=True)
    ]


def fewest_first(counts: dict[str, int]) -> list[str]:
    """The sub-tasks in the order in which a scene tries them: those with the fewest images so far come first."""
    return sorted(counts, key=lambda category: counts[category])


def mme_rows(scenes: Iterable[tuple[Scene, Draws]], split: str, seed: int) -> Iterator[list[dict]]:
    """Yield each scene's two questions as rows of lmms-lab/MME; the sub-tasks take turns."""
    counts = dict.fromkeys(PAIRS, 0)
    for scene, draws in scenes:
        tried = ((category, mme_pair(category, scene, draws)) for category in fewest_first(counts))
        category, pair = next((category, pair) for category, pair in tried if pair is not None)
        counts[category] += 1
        name = f"{category}/{scene_name(scene, split, seed)}"
        yield [{"question_id": name, **asked} for asked in pair]
