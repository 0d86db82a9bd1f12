"""Questions about a clip and their reference answers, the same for SFT, GRPO and scoring.

A clip that lists all its events (detection) is asked for all events, for each of its labels, and for absent labels; a
clip with a query only for that; a clip with captions only for these. Everything that differs between SFT, GRPO and
scoring is in a [`QuestionPolicy`].
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from processing.answer_text import PROMPTS, TASKS, prompt_text
from processing.events import Event
from recipes.data.clip import AnnotatedClip
from recipes.data.label_phrases import caption_of, paraphrases


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a clip and its reference answer.

    Attributes:
        id: id of the clip.
        task: `grounding`, `detection` or `captioning`.
        query: what to look for, in grounding.
        reference: the reference answer: events in seconds, none if the query is absent. In grounding their label is the
            query.
        event_label: the label that the query paraphrases; `None` outside grounding.
        prompt: index of the built-in prompt.
        words: the clip's own question, instead of a built-in prompt.
    """

    id: str
    task: str
    query: str | None = None
    reference: tuple[Event, ...] = ()
    event_label: str | None = None
    prompt: int = 0
    words: str | None = None

    @property
    def key(self) -> tuple[str, str, str | None]:
        """`(id, task, query)`, which identifies answers."""
        return self.id, self.task, self.query

    @property
    def text(self) -> str:
        """The prompt."""
        return self.words or prompt_text(self.task, self.query, self.prompt)


@dataclass(frozen=True)
class QuestionPolicy:
    """Which questions are asked about clips.

    Args:
        tasks: tasks to ask for.
        num_absent: maximum number of absent labels to ask for per detection clip; `None` for all. They are drawn from
            the clip's `absent`, or, if that is unknown, from `labels`. None are drawn for clips with a query, which is
            free text: another recording's `a man speaks` may be true of this one.
        labels: labels of the data set, see [`labels_of`].
        num_prompts: number of built-in prompts to use per task.
        has_paraphrases: paraphrase half of the labels.
        has_captions: also ask detection clips for captions, sentences made from the labels.
        is_shuffled: ask for labels in random rather than sorted order.
        seed: integers that, with the id of a clip, seed its random draws. These depend on nothing else, so that a clip
            gets the same questions in any subset of its data.

    Raises:
        ValueError: an unknown task, or a number out of range.
    """

    tasks: tuple[str, ...] = TASKS
    num_absent: int | None = 2
    labels: tuple[str, ...] = ()
    num_prompts: int = 1
    has_paraphrases: bool = False
    has_captions: bool = False
    is_shuffled: bool = False
    seed: tuple[int, ...] = ()

    def __post_init__(self):
        unknown = [task for task in self.tasks if task not in TASKS]
        if isinstance(self.tasks, str) or unknown or not self.tasks:
            raise ValueError(f"tasks is {self.tasks!r}; give some of {', '.join(TASKS)} in a list.")
        most = min(map(len, PROMPTS.values()))
        if isinstance(self.num_prompts, bool) or self.num_prompts not in range(1, most + 1):
            raise ValueError(f"num_prompts is {self.num_prompts!r}; give an integer from 1 to {most}.")
        numbers = {"num_absent": () if self.num_absent is None else (self.num_absent,), "seed": self.seed}
        for name, values in numbers.items():
            if not all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give an integer of 0 or more.")


SFT = QuestionPolicy(num_absent=1, num_prompts=4, has_paraphrases=True, is_shuffled=True)
GRPO = QuestionPolicy(("grounding", "detection"), num_absent=1, num_prompts=4)
SCORING = QuestionPolicy(num_absent=2)


def questions(clip: AnnotatedClip, policy: QuestionPolicy, rng: np.random.Generator | None = None) -> list[Question]:
    """Return the questions about a clip, with their reference answers.

    Args:
        rng: generator for all draws; by default one per clip, see `seed` of the policy.
    """
    rng = np.random.default_rng([*policy.seed, *clip.id.encode()]) if rng is None else rng
    made: list[Question] = []

    def ask(task, query, events, event_label=None, words=None):
        prompt = 0 if words else int(rng.integers(policy.num_prompts))
        if task in policy.tasks:
            made.append(Question(clip.id, task, query, tuple(events), event_label, prompt, words))

    if clip.query is not None:
        events = [replace(event, event_label=clip.query) for event in clip.events]
        ask("grounding", clip.query, events, clip.query, clip.question)
        return made
    ask(clip.task, None, clip.events, words=clip.question)
    if clip.task == "captioning":
        return made
    absent = absent_labels(clip, policy.labels)
    absent = [absent[index] for index in rng.permutation(len(absent))[: policy.num_absent]]
    if not policy.is_shuffled:
        absent.sort()
    present = sorted({event.event_label for event in clip.events} - {""})
    if policy.is_shuffled:
        present = [present[index] for index in rng.permutation(len(present))]
    for label in present + absent:
        query = _say(label, rng) if policy.has_paraphrases else label
        mine = [replace(event, event_label=query) for event in clip.events if event.event_label == label]
        ask("grounding", query, mine, label)
    if policy.has_captions:
        captions = [replace(event, event_label=caption_of(event.event_label)) for event in clip.events]
        ask("captioning", None, captions)
    return made


def key_name(key: Iterable[str | None]) -> str:
    """Return the key of a question as text, the id of its prompt in GRPO."""
    return "/".join(filter(None, key))


def absent_labels(clip: AnnotatedClip, labels: Iterable[str] = ()) -> list[str]:
    """Return the absent labels of a detection clip: those that it lists, else those of `labels`.

    Labels that are present or unsure are excluded.
    """
    known = labels if clip.absent is None else clip.absent
    not_absent = {"", *clip.unsure, *(event.event_label for event in clip.events)}
    return [label for label in dict.fromkeys(known) if label not in not_absent]


def labels_of(clips: Iterable[AnnotatedClip]) -> tuple[str, ...]:
    """Return the labels of all events of detection clips, sorted."""
    return tuple(sorted({e.event_label for clip in clips if clip.task == "detection" for e in clip.events} - {""}))


def _say(label, rng) -> str:
    """Return a label, or half of the time a random paraphrase."""
    said = paraphrases(label)
    return label if rng.random() < 0.5 else said[int(rng.integers(len(said)))]
