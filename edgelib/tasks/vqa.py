"""VQA accuracy: agreement of a free-text answer with ten annotators, as the official VQAv2 evaluator counts it.

The peer is GT-Vision-Lab/VQA, `vqaEval.py` at a013f00 (Antol et al., 2015; Goyal et al., 2017), quirks included: they
decide which answers match, so leaving one out gives another number than the published ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import numpy as np

from edgelib.errors import EdgelibError, choose
from edgelib.tasks.base import Task
from edgelib.tasks.references import annotators
from edgelib.tasks.yes_no import answer_texts, listed

NUMBERS = {"none": "0"} | {
    word: str(value) for value, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
ARTICLES = {"a", "an", "the"}
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
""".split()
# The list has a word in each spelling that lacks one apostrophe: "dont", "couldntve" is not in it, "couldn'tve" is.
# "im" and "ive" stay as they are (the list spells them with a capital, after the text is in lower case), and one entry
# works the other way round.
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word for word in _CONTRACTED for place, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")  # a period before a digit stays; one after a digit goes, against the look of the code
_MOST_PERIODS = 32  # the official call passes the flag re.UNICODE, which is 32, where re.sub takes a count
RULES = dict.fromkeys(("official", "always-normalise"))


def _tidy(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def normalise(text: str) -> str:
    """Return the official normal form: punctuation out, lower case, numbers to ten as digits, no articles, apostrophes.

    A mark of PUNCTUATION becomes a space, or nothing if it touches a space somewhere in the text or the text has a
    comma between digits. Apostrophe, colon, %, $ and & stay.
    """
    text = _tidy(text)
    vanish = _DIGIT_COMMA_DIGIT.search(text) is not None
    out = text
    for mark in PUNCTUATION:
        out = out.replace(mark, "" if vanish or f"{mark} " in text or f" {mark}" in text else " ")
    words = _PERIOD.sub("", out, count=_MOST_PERIODS).lower().split()
    numbers = (NUMBERS.get(word, word) for word in words)
    return " ".join(CONTRACTIONS.get(word, word) for word in numbers if word not in ARTICLES)


def leave_one_out(prediction: str, given: list[str]) -> float:
    """Return the mean over annotators of min(matches among the others / 3, 1), in [0, 1]; equal texts match."""
    n, matches = len(given), given.count(prediction)
    return (matches * min(1.0, (matches - 1) / 3) + (n - matches) * min(1.0, matches / 3)) / n if matches else 0.0


def _agreement(prediction: str, given: list[str], rule: str, normal) -> float:
    prediction, given = _tidy(prediction), [_tidy(answer) for answer in given]
    if rule == "always-normalise" or len(set(given)) > 1:
        prediction, given = normal(prediction), [normal(answer) for answer in given]
    return leave_one_out(prediction, given)


def annotated_accuracies(predictions, answers, agree: Callable[[str, list[str]], float]) -> np.ndarray:
    """Return agree(prediction, annotators' texts) of n predictions, [n]; arguments as `vqa_accuracies`.

    Raises EdgelibError for predictions and answers that are no texts, no answers at all, and lengths that differ.
    """
    predictions, answers = answer_texts(predictions, "predictions"), listed(answers, "answers")
    if len(predictions) != len(answers):
        raise EdgelibError(f"every prediction needs its answers: got {len(predictions)} and {len(answers)} of them")
    values = np.empty(len(predictions))
    for place, (prediction, given) in enumerate(zip(predictions, answers, strict=True)):
        given = answer_texts(given, f"answers of item {place}")
        if not given:
            raise EdgelibError(f"item {place} has no annotator's answer to compare {prediction!r} with; drop the item")
        values[place] = agree(prediction, given)
    return values


def vqa_accuracies(predictions, answers, rule: str = "official") -> np.ndarray:
    """Return the VQA accuracy of each of n predictions, [n] in [0, 1], higher is better; arguments as `vqa_accuracy`.

    answers: n lists of annotators' answers. Each distinct text is normalised once.
    Raises EdgelibError as `vqa_accuracy`, and for lengths that differ.
    """
    choose(RULES, rule, "VQA rule")
    normal = cache(normalise)
    return annotated_accuracies(predictions, answers, lambda said, given: _agreement(said, given, rule, normal))


def vqa_accuracy(prediction: str, answers, rule: str = "official") -> float:
    """Return the VQA accuracy of one prediction, mean over annotators of min(matches among the others / 3, 1).

    In [0, 1], higher is better: 0, 0.3, 0.6, 0.9, 1 for 0, 1, 2, 3, 4 or more matches among ten annotators. The others
    are the annotators but one, so a single annotator gives 0 and fewer than four never give 1.
    answers: the annotators' texts, or records {"answer": text}; every entry is one annotator.
    rule: "official" compares normalised texts only if the annotators disagree; when all wrote the same, the prediction
    must be that very text ("Yes" is wrong where ten wrote "yes"). "always-normalise" has no such exception, as in
    lmms-eval. See `normalise`.
    Raises EdgelibError for a prediction or an answer that is no text, no answers at all, and an unknown rule.
    """
    return float(vqa_accuracies([prediction], [answers], rule)[0])


def vqa_scores(predictions, answers, rule: str = "official") -> dict:
    """Return dict(accuracy, n, unparsed): the mean of `vqa_accuracies`, in [0, 1], over n items, higher is better.

    unparsed: predictions that are empty or normalise to nothing. They are scored like any other.
    Raises EdgelibError as `vqa_accuracies`, and if there is no item.
    """
    texts = answer_texts(predictions, "predictions")
    values = vqa_accuracies(texts, answers, rule)
    if not texts:
        raise EdgelibError("there are no predictions to score; give at least one")
    return dict(accuracy=float(values.mean()), n=len(values), unparsed=sum(not normalise(text) for text in texts))


def _judge(predictions: list[str], references: list) -> dict:
    said = [normalise(text) for text in predictions]
    return dict(score=vqa_accuracies(predictions, references), said=said, parsed=[bool(text) for text in said])


VQA = Task(
    name="vqa",
    title="VQA",
    label="VQA accuracy",
    image_id="image_id",
    columns=("question_type", "answer_type", "answers"),
    reference="answers",
    read=annotators,
    judge=_judge,
    category="question_type",
    strata=("question_type",),
)
