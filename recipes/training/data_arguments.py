"""Options of both training recipes: which clips to train on, and which questions to ask about them."""

from dataclasses import dataclass, replace

from recipes.arguments import option
from recipes.data.clip import AnnotatedClip
from recipes.data.loading import load_clips
from recipes.data.questions import QuestionPolicy, labels_of


@dataclass
class DataArguments:
    """Which clips to train on."""

    data: str = option("data", "annotations in a format of docs/data-formats.md, or a folder with <split>.jsonl")
    split: str = option("train", "split to train on, in such a folder")
    data_format: str | None = option(None, "format of the annotations; default: detected from their contents")
    audio_dir: str | None = option(None, "folder of the recordings; default: that of the annotations")
    durations: str | None = option(None, "table of filename and duration, for annotations without them")
    label_aliases: str | None = option(None, 'JSON file with other names for labels: {"alias": "label", ...}')
    min_score: float | None = option(None, "leave out annotated events with a lower score, such as pseudo-labels")
    num_absent: int = option(
        1,
        "absent labels to ask about per clip, drawn from those that the clip lists, or else from the labels of "
        "all clips; 0 where annotations are incomplete",
    )
    num_prompts: int = option(4, "number of built-in prompt templates to use")

    def load_clips(self, limit=None, **needs) -> list[AnnotatedClip]:
        """Return the clips, see [`~recipes.data.loading.load_clips`]."""
        return load_clips(
            self.data, self.data_format, self.audio_dir, self.durations, self.label_aliases,
            split=self.split, min_score=self.min_score, limit=limit, **needs,
        )  # fmt: skip

    def question_policy(self, policy: QuestionPolicy, clips, **changes) -> QuestionPolicy:
        """Return a policy with these options applied."""
        options = {"num_absent": self.num_absent, "num_prompts": self.num_prompts, "labels": labels_of(clips)}
        return replace(policy, **options, **changes)
