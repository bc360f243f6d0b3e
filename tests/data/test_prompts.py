from __future__ import annotations

import pytest

from edgelib.data.prompts import prompt_sets, templates
from edgelib.errors import EdgelibError

# The number of templates in each published list (CLIP's data/prompts.md and its prompt engineering notebook).
PUBLISHED = {"simple": 1, "cifar": 18, "imagenet-7": 7}


@pytest.mark.parametrize("name", list(prompt_sets()))
def test_every_set_formats_with_a_class_name(name):
    prompts = [template.format("cat") for template in templates(name)]
    assert prompts and all("cat" in prompt and "{" not in prompt for prompt in prompts)


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items(), ids=list(PUBLISHED))
def test_published_sets_are_complete(name, count):
    assert len(templates(name)) == len(set(templates(name))) == count


def test_scenes_templates_are_captions_of_the_embedded_world():
    from edgelib.data.scenes.captions import TEMPLATES

    assert {template.replace("{}", "{shape}") for template in templates("scenes")} <= set(TEMPLATES)


def test_own_lists_and_single_templates_pass_through():
    assert templates(["a {}.", "the {}"]) == ("a {}.", "the {}")
    assert templates("a drawing of a {}.") == ("a drawing of a {}.",)


@pytest.mark.parametrize(
    ("given", "says"),
    {
        "unknown set": ("cifer", "did you mean 'cifar'"),
        "no place": (["a photo."], "exactly one {}"),
        "two places": (["{} and {}"], "exactly one {}"),
        "named place": (["a {name}"], "exactly one {}"),
        "numbered place": (["a {0}"], "exactly one {}"),
        "converted place": (["a {!r}"], "exactly one {}"),
        "unmatched brace": (["a {"], "exactly one {}"),
        "not a text": ([3], "exactly one {}"),
        "empty list": ([], "empty"),
        "repeated": (["a {}", "a {}"], "twice"),
        "not a list": (7, "name of a set"),
    }.values(),
    ids=lambda value: repr(value)[:30],
)
def test_wrong_prompts_say_what_is_wrong(given, says):
    with pytest.raises(EdgelibError) as error:
        templates(given)
    assert says in str(error.value) and "\n" not in str(error.value)
