"""Visual questions about scenes in the columns of VQAv2: what is asked, the truth, and what ten people answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from edgelib.data.scenes.captions import second_language
from edgelib.data.scenes.questions_scene import Draws, Scene, Thing, with_article, wording
from edgelib.data.scenes.records import COLOURS
from edgelib.data.scenes.shapes import SHAPES

ANNOTATORS = 10
PER_IMAGE = 4  # questions of one image
_MARGIN = 0.15  # smallest distance from the middle, or between two objects, at which sides are asked for
_LARGER = 1.2  # the largest object is asked for if its radius is this many times the next
_DISSENT = 0.06  # chance that an annotator says something close to the truth instead
_CONFIDENCE = {"yes": 0.8, "maybe": 0.15, "no": 0.05}
_OPPOSITE = {"left": "right", "right": "left"}

Case = tuple[dict[str, str], str]  # what fills the phrasing, and the true answer


def yes_no(truth: bool) -> str:
    """The answer to a question that is true or not."""
    return "yes" if truth else "no"


def other_than(options, taken, draws: Draws) -> str:
    """One of the options that are not taken."""
    return draws.pick([option for option in options if option not in taken])


def german_shape(shape: str) -> str:
    """The German noun in lower case, as answers are."""
    return second_language()["shape"][shape]["word"].lower()


def german_phrase(colour: str, shape: str) -> str:
    """A colour and a shape in German, the adjective's ending agreeing with the noun: "roter kreis"."""
    words = second_language()
    ending = words["genders"][words["shape"][shape]["gender"]]["er"]
    return f"{words['colour'][colour]}{ending} {german_shape(shape)}"


def off_centre(scene: Scene) -> list[tuple[Thing, str]]:
    """The objects that stand clearly left or right, with their side."""
    return [(t, "left" if t.x < 0 else "right") for t in scene.things if abs(t.x) >= _MARGIN]


def side_by_side(scene: Scene) -> list[tuple[Thing, Thing, str]]:
    """(object, other, side of the other on which the object stands), where it is clear."""
    return [
        (a, b, "left" if a.x < b.x else "right")
        for a in scene.things
        for b in scene.things
        if abs(a.x - b.x) >= 2 * _MARGIN
    ]


def clearly_largest(scene: Scene) -> Thing | None:
    """The largest object, if no other comes close."""
    first, *rest = sorted(scene.things, key=lambda thing: -thing.radius)
    return None if rest and first.radius < _LARGER * rest[0].radius else first


def _color(scene: Scene, draws: Draws) -> Case:
    thing = draws.pick(scene.things)
    return {"shape": thing.shape}, thing.colour


def _shape(scene: Scene, draws: Draws) -> Case:
    thing = draws.pick(scene.things)
    return {"colour": thing.colour}, thing.shape


def _largest(scene: Scene, draws: Draws) -> Case | None:
    thing = clearly_largest(scene)
    return None if thing is None else ({}, thing.shape)


def _exists(scene: Scene, draws: Draws) -> Case:
    truth = draws.chance(0.5)
    shapes = [thing.shape for thing in scene.things]
    shape = draws.pick(shapes) if truth else other_than(SHAPES, shapes, draws)
    return {"a_shape": with_article(shape)}, yes_no(truth)


def _exists_both(scene: Scene, draws: Draws) -> Case:
    truth, thing = draws.chance(0.5), draws.pick(scene.things)
    shape, colour = thing.shape, thing.colour
    if not truth and draws.chance(0.5):
        shape = other_than(SHAPES, [t.shape for t in scene.things], draws)
    elif not truth:
        colour = other_than(COLOURS, [thing.colour], draws)
    return {"a_colour": with_article(colour), "shape": shape}, yes_no(truth)


def _is_color(scene: Scene, draws: Draws) -> Case:
    truth, thing = draws.chance(0.5), draws.pick(scene.things)
    colour = thing.colour if truth else other_than(COLOURS, [thing.colour], draws)
    return {"shape": thing.shape, "colour": colour}, yes_no(truth)


def _count(scene: Scene, draws: Draws) -> Case:
    return {}, str(len(scene.things))


def _count_more(scene: Scene, draws: Draws) -> Case:
    more = draws.pick((1, 2, 3))
    return {"number": wording()["numbers"][more]}, str(len(scene.things) + more)


def _texture(scene: Scene, draws: Draws) -> Case:
    return {}, scene.texture


def _is_side(scene: Scene, draws: Draws) -> Case | None:
    sides = off_centre(scene)
    if not sides:
        return None
    truth, (thing, side) = draws.chance(0.5), draws.pick(sides)
    return {"shape": thing.shape, "side": side if truth else _OPPOSITE[side]}, yes_no(truth)


def _side(scene: Scene, draws: Draws) -> Case | None:
    sides = off_centre(scene)
    if not sides:
        return None
    thing, side = draws.pick(sides)
    return {"shape": thing.shape}, side


def _left_of(scene: Scene, draws: Draws) -> Case | None:
    pairs = side_by_side(scene)
    if not pairs:
        return None
    truth, (thing, other, side) = draws.chance(0.5), draws.pick(pairs)
    side = side if truth else _OPPOSITE[side]
    return {"colour": thing.colour, "other": other.colour, "side": side}, yes_no(truth)


def _translate(scene: Scene, draws: Draws) -> Case:
    colour, shape = draws.pick(list(COLOURS)), draws.pick(list(SHAPES))
    if draws.chance(0.5):
        return {"phrase": shape}, german_shape(shape)
    return {"phrase": f"{colour} {shape}"}, german_phrase(colour, shape)


def _shape_german(scene: Scene, draws: Draws) -> Case:
    thing = draws.pick(scene.things)
    return {"colour": thing.colour, "farbe": second_language()["colour"][thing.colour]}, german_shape(thing.shape)


def _color_german(scene: Scene, draws: Draws) -> Case:
    thing, words = draws.pick(scene.things), second_language()
    der = wording()["der"][words["shape"][thing.shape]["gender"]]
    return {"der": der, "form": words["shape"][thing.shape]["word"]}, words["colour"][thing.colour]


# Kind of question, as in questions.yaml: (how often it is asked, how a case of it is made).
KINDS: dict[str, tuple[float, Callable[[Scene, Draws], Case | None]]] = {
    "color": (3, _color),
    "shape": (2, _shape),
    "largest": (2, _largest),
    "exists": (2, _exists),
    "exists_both": (2, _exists_both),
    "is_color": (2, _is_color),
    "count": (1.5, _count),
    "count_more": (1, _count_more),
    "texture": (2, _texture),
    "is_side": (1.5, _is_side),
    "side": (1.5, _side),
    "left_of": (1, _left_of),
    "translate": (1, _translate),
    "shape_german": (1, _shape_german),
    "color_german": (1, _color_german),
    "count_german": (0.5, _count),
}


def vqa_question(kind: str, scene: Scene, draws: Draws) -> dict[str, str] | None:
    """A question of a kind: question, question_type, answer_type, answer (the truth); None if the scene has none."""
    case = KINDS[kind][1](scene, draws)
    if case is None:
        return None
    words = wording()["vqa"][kind]
    opening = draws.pick(list(words["ask"]))
    question = words["ask"][opening].format(**case[0])
    return dict(question=question, question_type=opening, answer_type=words["answer_type"], answer=case[1])


def vqa_questions(scene: Scene, draws: Draws) -> list[dict[str, str]]:
    """PER_IMAGE questions of different kinds, each as `vqa_question`."""
    weights = {kind: weight for kind, (weight, _) in KINDS.items()}
    asked: list[dict[str, str]] = []
    while len(asked) < PER_IMAGE:
        kind = draws.weighted(weights)
        del weights[kind]
        question = vqa_question(kind, scene, draws)
        asked += [question] if question else []
    return asked


def _said(truth: str, draws: Draws) -> str:
    """What one annotator answers: the truth, or something close."""
    if not draws.chance(_DISSENT):
        return truth
    if truth in ("yes", "no"):
        return yes_no(truth == "no")
    if truth.isdigit():
        return str(int(truth) + draws.pick((-1, 1)))
    return draws.pick(wording()["instead"].get(truth, [wording()["unsure"]]))


def annotators(truth: str, draws: Draws) -> list[dict]:
    """VQAv2's `answers`: answer, answer_confidence and answer_id (from 1) of ten people."""
    return [
        dict(answer=_said(truth, draws), answer_confidence=draws.weighted(_CONFIDENCE), answer_id=number)
        for number in range(1, ANNOTATORS + 1)
    ]


def majority(answers: list[dict]) -> str:
    """VQAv2's `multiple_choice_answer`: what most annotators say, the first said among equals."""
    said = [each["answer"] for each in answers]
    return max(dict.fromkeys(said), key=said.count)


def vqa_rows(scenes: Iterable[tuple[Scene, Draws]], split: str, seed: int) -> Iterator[list[dict]]:
    """Yield each scene's questions as rows of lmms-lab/VQAv2."""
    for scene, draws in scenes:
        rows = []
        for number, asked in enumerate(vqa_questions(scene, draws)):
            truth = asked.pop("answer")
            answers = annotators(truth, draws)
            ids = dict(question_id=1000 * scene.index + number, image_id=scene.index)
            rows.append({**ids, **asked, "multiple_choice_answer": majority(answers), "answers": answers})
        yield rows
