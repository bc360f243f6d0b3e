"""The chapter `edge_engines`: GGUF names for both halves of a model that writes, and the engine that runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from edgelib.chapters.schema.base import Answers, Questions, kinds
from edgelib.chapters.schema.fields import (
    MOST_ITEMS,
    Columns,
    Conditions,
    Mixes,
    Name,
    NotEmpty,
    Prose,
    SeverityTable,
    Source,
    TablePath,
    at_least_two,
    distinct,
    each,
    spelt,
)
from edgelib.chapters.schema.present import Draw
from edgelib.errors import EdgelibError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edgelib.data.questions import QuestionSet
    from edgelib.models.generative import GenerativeModel
    from edgelib.study.answer_grid import AnswerGrid, AnswerVariant


def _file_type(name: str) -> str:
    from edgelib.formats.gguf.rules import require_mix

    return require_mix(name)


FileTypes = Annotated[list[Name], NotEmpty, each(_file_type), spelt(_file_type)]
Tokens = Annotated[int, Field(ge=1, le=65_536)]


def pair_config(decoder: str, vision: str) -> str:
    """The scheme of a decoder's file beside a vision tower's."""
    return f"gguf-{decoder}+{vision}"


class EdgeEngines(Answers):
    """Parameters of the chapter `edge_engines`."""

    questions: Questions = Field("scenes-vqa", description="questions in the columns of a benchmark")
    split: Name = Field("test", description="split of the questions")
    columns: Columns = Field({}, description='column names, as in {"question": "q", "answers": "gt"}')
    images: Annotated[Name, Source()] | None = Field(None, description="folder of the image files, where it lies apart")
    n_images: int = Field(12, ge=2, le=MOST_ITEMS, description="images, each with all of its questions")
    decoders: Annotated[FileTypes, at_least_two("names of files: the reference, and one to compare with it")] = Field(
        ["f16", "q8_0", "q4_k_m"], description="names of the decoder's files, the reference first"
    )
    visions: FileTypes = Field(
        ["f16", "q8_0", "q4_k_m"], description="names of the vision tower's files (mmproj), the reference first"
    )
    conditions: Conditions = Field(["gaussian_noise:3", "fog:3"], description='conditions such as "fog:3"')
    table: SeverityTable | None = Field(None, description="severity table; null chooses by image size")
    instruction: Prose | None = Field(None, description="a line after each question; null: the benchmark's own")
    max_new_tokens: int = Field(8, ge=1, le=4096, description="longest answer, in tokens")
    other_calibrations: Mixes = Field(
        ["text-only"], description="further calibration mixes of the importance, such as text alone"
    )
    calibration_source: Questions | None = Field(
        None, description="questions that the importance is taken from; null: those that are asked"
    )
    image_tokens: list[Tokens] = Field(
        [4, 9, 16], description="tokens that an image becomes, ascending or not; [] leaves this out"
    )
    n_agreement: int = Field(4, ge=1, le=10_000, description="prompts on which the engine meets its simulation")
    engine_times: TablePath | None = Field(
        None, description='folder with llama_cpp.csv; null: the published machine, "here": measure now'
    )
    margin: float = Field(0.01, gt=0, lt=1, description="accuracy that a pair of files may lose, as a fraction")

    @field_validator("image_tokens")
    @classmethod
    def _each_once(cls, tokens: list[int]) -> list[int]:
        return distinct(tokens)

    @field_validator("engine_times")
    @classmethod
    def _timed(cls, folder: str | None) -> str | None:
        from edgelib.study.engine.times import engine_times, first_times

        if folder != "here":
            engine_times(folder)
            first_times(folder)
        return folder

    @property
    def pairs(self) -> dict[str, tuple[str, str]]:
        """(decoder, vision) by scheme, the reference first."""
        return {pair_config(d, v): (d, v) for v in self.visions for d in self.decoders}

    @property
    def unweighed(self) -> str:
        """The scheme of the last decoder alone, beside the tower as it is."""
        return f"gguf-{self.decoders[-1]}"

    @property
    def weighed(self) -> str:
        """The same decoder with importance; its tower needs none, so that text alone can calibrate."""
        return f"{self.unweighed}-imatrix"

    @property
    def calibrations(self) -> list[str]:
        """The mixes of the importance, each once."""
        return list(dict.fromkeys([self.calibration, *self.other_calibrations]))

    def reading(self) -> dict[str, Any]:
        """How the data set is read, as `dataset` and `calibration_set` take it."""
        return {"offline": self.local_files_only, "columns": self.columns or None, "images": self.images}

    def draws(self) -> Iterable[Draw]:
        """The questions that the importance is taken from, by mix."""
        source, how = self._importance_source()
        mixes = self.calibrations if self._weighs else []
        return [Draw("questions", mix, self.n_calibration, source, how) for mix in mixes]

    def _importance_source(self) -> tuple[str, dict[str, Any]]:
        """The data set of the importance, and how it is read."""
        source, how = self.calibration_source or self.questions, self.reading()
        if source != self.questions:
            how |= {"columns": None, "images": None}  # how the questions that are asked are read
        return source, how

    def study(self) -> AnswerGrid:
        """Load what the parameters name and lay out the cells: every pair of files and condition of the images, and the
        last decoder with importance of each mix. Raises EdgelibError for whatever cannot be loaded."""
        from edgelib.data.calibration import calibration_set
        from edgelib.models.twins import PLAIN
        from edgelib.study.answer_grid import AnswerVariant

        model, asked = self.load_model(), self._load_questions()
        self._require_tokens(model, asked)
        mixes = self.calibrations if self._weighs else []
        bare = [self.unweighed] if mixes else []
        kinds.check_parts(model, [*self.pairs, *bare], [], self.seed)
        variants = [AnswerVariant(PLAIN, config) for config in (*self.pairs, *bare)]
        made: dict[str, Any] = {}
        source, how = self._importance_source()
        for mix in mixes:
            made[mix] = calibration_set(mix, self.n_calibration, self.seed, source, exclude=asked, **how)
        variants += [AnswerVariant(PLAIN, self.weighed, mix) for mix in mixes]
        return self._grid(model, asked, variants, made)

    def _require_tokens(self, model: GenerativeModel, asked: QuestionSet) -> None:
        """Raise EdgelibError for numbers of image tokens that the model does not take, before any work."""
        from edgelib.models.token_budget import image_tokens, with_image_tokens

        image = asked.images[[0]][0]
        for tokens in self.image_tokens:
            found = image_tokens(with_image_tokens(model, tokens), image)
            if found + self.max_new_tokens >= model.context:
                raise EdgelibError(
                    f"image_tokens = {tokens}: an image of {found} tokens and {self.max_new_tokens} new ones leave no "
                    f"room for a question in the {model.context} that {model.name} reads; choose less"
                )

    @property
    def _weighs(self) -> bool:
        return self.decoders[-1] != "f16"

    def budgets(self, study: AnswerGrid) -> dict[int, AnswerGrid]:
        """The grid of every decoder beside the reference tower, by the number of tokens that an image becomes.

        Raises EdgelibError for a model whose processor takes no such number.
        """
        from edgelib.models.token_budget import with_image_tokens
        from edgelib.models.twins import PLAIN
        from edgelib.study.answer_grid import AnswerVariant

        asked = next(iter(study.sets.values()))
        variants = [AnswerVariant(PLAIN, pair_config(decoder, self.visions[0])) for decoder in self.decoders]
        return {
            tokens: self._grid(with_image_tokens(study.model, tokens), asked, variants, {})
            for tokens in self.image_tokens
        }

    def _grid(
        self,
        model: GenerativeModel,
        asked: QuestionSet,
        variants: list[AnswerVariant],
        calibrations: dict[str, QuestionSet],
    ) -> AnswerGrid:
        from edgelib.corruptions.condition import Condition, condition
        from edgelib.study.answer_grid import AnswerGrid, Place

        task = asked.task.name
        places = [Place(task, at) for at in (Condition(), *map(condition, self.conditions))]
        return AnswerGrid(
            model=model,
            asked=tuple((variant, place) for variant in variants for place in places),
            sets={task: asked},
            calibrations=calibrations,
            seed=self.seed,
            table=self.table,
            instruction=self.instruction,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )

    def data_sets(self) -> dict[str, tuple[str, Callable[[], Any]]]:
        """The questions."""
        return {"questions": (self.questions, self._load_questions)}

    def _load_questions(self) -> QuestionSet:
        from edgelib.data.datasets import dataset

        found = dataset(self.questions, self.split, self.n_images, self.seed, **self.reading())
        return kinds.questions(found, f"questions={self.questions!r}")
