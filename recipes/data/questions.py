"""What is asked about a clip, and the right answers: the same for SFT, GRPO and scoring.

A clip that lists all its events (detection) is asked for them, for each of its labels, and for labels that it lacks; a
clip with a query for that alone, one with captions for these alone. What else differs between the three is a
[`QuestionPolicy`].
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
    """Hold a question about a clip and its right answer.

    Attributes:
        id: of the clip.
        task: `grounding`, `detection` or `captioning`.
        query: what is looked for, in grounding.
        reference: the right answer: events in seconds, none if the query is absent. In grounding their label is the
            query.
        event_label: the label that a query means, whatever its words; `None` outside grounding.
        prompt: which built-in prompt asks, from 0.
        words: words of the clip's own to ask in.
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
        """`(id, task, query)`, which answers are kept by."""
        return self.id, self.task, self.query

    @property
    def text(self) -> str:
        """The prompt."""
        return self.words or prompt_text(self.task, self.query, self.prompt)


@dataclass(frozen=True)
class QuestionPolicy:
    """Say which questions are asked about clips.

    Args:
        tasks: those that are asked for.
        num_absent: most absent labels to ask for in a detection clip; `None` for all. They are drawn from
            the clip's `absent`, and where that is unknown from `labels`. None are drawn for a clip with a query: its
            words are free, and another recording's `a man speaks` may be true of this one.
        labels: those of the data set, see [`labels_of`].
        num_prompts: how many of the built-in prompts of a task are used.
        has_paraphrases: ask for a label in other words at times.
        has_captions: ask a detection clip for captions too, sentences made from its labels.
        is_shuffled: ask for labels in random order, not sorted.
        seed: integers that, with the id of a clip, seed its draws. They depend on nothing else, so that a clip is asked
            the same in any part of its data set.

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
    """Return the questions about a clip, with their right answers.

    Args:
        rng: what is drawn is drawn from it; by default from a generator of the clip's own, see `seed` of the policy.
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


def absent_labels(clip: AnnotatedClip, labels: Iterable[str] = ()) -> list[str]:
    """Return the labels that a detection clip lacks: those that it lists itself, else those of `labels`.

    Labels that it has, or is unsure of, are left out.
    """
    known = labels if clip.absent is None else clip.absent
    not_absent = {"", *clip.unsure, *(event.event_label for event in clip.events)}
    return [label for label in dict.fromkeys(known) if label not in not_absent]


def labels_of(clips: Iterable[AnnotatedClip]) -> tuple[str, ...]:
    """Return the labels of all events of detection clips, sorted."""
    return tuple(sorted({e.event_label for clip in clips if clip.task == "detection" for e in clip.events} - {""}))


def _say(label, rng) -> str:
    """Return a label, or half the time any of its paraphrases."""
    said = paraphrases(label)
    return label if rng.random() < 0.5 else said[int(rng.integers(len(said)))]
