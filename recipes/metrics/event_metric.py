"""The base of the `evaluate` modules in `recipes/metrics/`: passing events through `evaluate`.

`evaluate` 0.4.6 stores its input in an Arrow table until it computes. Arrow would read `"1.5"` and `True` as numbers
and 3 as a label, fill missing values with nulls, and drop unknown keys; and a `None` is an error at the start of a
batch but not elsewhere. Therefore events are checked here first.
"""

import logging
import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import datasets
import evaluate

from processing.events import Event
from recipes.scoring import (
    ClipSums,
    apply_aliases,
    check_aliases,
    check_lengths,
    read_label_aliases,
    sum_intervals,
    unmatched_labels,
)

logger = logging.getLogger(__name__)

_EVENT = {
    "onset": datasets.Value("float64"),  # float32 would turn 0.1 into 0.10000000149
    "offset": datasets.Value("float64"),
    "event_label": datasets.Value("string"),
}
MESAROS = """
@article{mesaros2016metrics,
  title={Metrics for Polyphonic Sound Event Detection},
  author={Mesaros, Annamaria and Heittola, Toni and Virtanen, Tuomas},
  journal={Applied Sciences},
  volume={6},
  number={6},
  pages={162},
  year={2016},
  doi={10.3390/app6060162}
}
"""


class EventMetric(evaluate.Metric):
    """Base class of the modules, each of which defines `about` and `_score`.

    Import this file, not the class, into a module: `evaluate` uses the first metric that it finds there.

    Attributes:
        about: `description`, `inputs_description`, `citation` and `reference_urls` of `evaluate.MetricInfo`.
        more_inputs: names of further inputs per clip; `score` is one per predicted event.
        labels_matter: whether events must have labels.
    """

    about: dict
    more_inputs: tuple[str, ...] = ()
    labels_matter = True

    def _info(self):
        number = datasets.Value("float64")
        score = {"score": number} if "score" in self.more_inputs else {}
        # Not `List`: evaluate inspects the first entry of a list of structures, and fails if it is None.
        features = {
            "predictions": datasets.LargeList({**_EVENT, **score}),
            "references": datasets.LargeList(dict(_EVENT)),
            **{name: number for name in self.more_inputs if name != "score"},
        }
        return evaluate.MetricInfo(**self.about, features=datasets.Features(features))

    def _compute(
        self, predictions, references, bootstrap=False, confidence=0.95, num_resamples=1000, seed=0, **settings
    ):
        check_lengths(references, predictions, empty=False)
        references, predictions = (
            [None if clip is None else [Event(**values) for values in clip] for clip in side]
            for side in (references, predictions)
        )
        scores, sums = self._score(references, predictions, **settings)
        if bootstrap:
            for part in sums():
                for name, interval in sum_intervals(part, confidence, num_resamples, seed).items():
                    scores[f"{name}_low"], scores[f"{name}_high"] = interval or (None, None)
        return {name: math.nan if value is None else float(value) for name, value in scores.items()}

    def _score(self, references, predictions) -> tuple[dict, Callable[[], list[ClipSums]]]:
        """Return the scores by name, `None` if undefined, and a function that returns the sums for their intervals.

        Args:
            references, predictions: lists over clips of lists of [`~processing.events.Event`]; a prediction may be
                `None`. Further arguments are those of `compute`, by name.
        """
        raise NotImplementedError

    def compute(self, *, predictions=None, references=None, **kwargs):
        """Compute the scores of all clips added so far and of those given.

        Args:
            predictions, references: as in `add_batch`.
            kwargs: further inputs per clip, and options.

        Raises:
            ValueError: errors of [`add_batch`], no clips, or an argument out of range. After the latter, clips added so
                far are lost.
        """
        try:
            return super().compute(predictions=predictions, references=references, **kwargs)
        except BaseException:
            # If `_compute` fails, evaluate leaves its files locked.
            if self.data is not None:
                self.data = None
                for path, lock in zip(self.file_paths or (), self.filelocks or (), strict=True):
                    Path(path).unlink(missing_ok=True)
                    lock.release()
            raise

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add clips.

        Args:
            predictions, references: one list per clip of `{"onset", "offset", "event_label"}`, times in seconds. A
                prediction may be `None`, an answer that could not be parsed.
            kwargs: further inputs per clip.

        Raises:
            ValueError: different numbers of clips, missing or unknown inputs, or invalid events.
        """
        inputs = {"predictions": predictions, "references": references, **kwargs}
        if missing := [name for name in self.features if inputs.get(name) is None]:
            raise ValueError(
                f"{missing[0]} is missing; give one entry for each clip, of each of {list(self.features)}."
            )
        if unknown := [name for name in inputs if name not in self.features]:
            raise ValueError(f"{unknown[0]} is not an input of {self.name}; give {', '.join(self.features)}.")
        for name, clips in inputs.items():
            if name in ("predictions", "references"):
                inputs[name] = _read_clips(name, clips, self.labels_matter, set(self.features[name].feature))
            else:
                inputs[name] = _read_numbers(name, clips)
                if len(inputs[name]) != len(inputs["references"]):
                    raise ValueError(
                        f"{name} has {len(inputs[name])} entries and references {len(inputs['references'])}; give one "
                        "for each clip."
                    )
        check_lengths(inputs["references"], inputs["predictions"])
        super().add_batch(**inputs)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add one clip; see [`add_batch`]."""
        inputs = {"predictions": prediction, "references": reference, **kwargs}
        self.add_batch(**{name: [value] for name, value in inputs.items()})


def with_aliases(predictions, label_aliases) -> list:
    """Return predictions with aliases replaced by their labels.

    Args:
        label_aliases: a mapping, the path of a JSON file for [`~recipes.scoring.read_label_aliases`], or `None`.

    Raises:
        ValueError: malformed aliases.
    """
    if label_aliases is None:
        return predictions
    if isinstance(label_aliases, (str, os.PathLike)):
        aliases = read_label_aliases(label_aliases)
    elif isinstance(label_aliases, Mapping):
        aliases = check_aliases(label_aliases.items())
    else:
        raise ValueError(
            f'label_aliases is {label_aliases!r}; give a mapping {{"alias": "label"}} or the path of a JSON file.'
        )
    return [apply_aliases(events, aliases) for events in predictions]


def count_unmatched_labels(references, predictions) -> dict[str, int]:
    """Return the number of labels that only one side has, and log a warning if both sides have events."""
    found = unmatched_labels(references, predictions)
    if any(references) and any(predictions):
        for side, labels in found.items():
            if labels:
                logger.warning("labels %s, with the number of events: %s", side.replace("_", " "), labels)
    return {f"num_labels_{side}": len(labels) for side, labels in found.items()}


def flat_count_scores(report) -> dict[str, float]:
    """Return event-based or segment-based scores as a flat dict, without those of single labels."""
    flat = {f"{average}_{name}": value for average in ("micro", "macro") for name, value in report[average].items()}
    flat |= report["micro_errors"]
    flat |= {f"macro_{name}": value for name, value in report["macro_errors"].items()}
    rest = ("time_resolution", "parse_failure_rate", "num_clips")
    return flat | {name: report[name] for name in rest if name in report}


def _read_clips(name, clips, labels_matter, keys) -> list[list[dict] | None]:
    read = []
    for i, clip in enumerate(_as_list(name, clips)):
        if clip is None and name == "predictions":
            read.append(None)
            continue
        events = _as_list(f"{name}[{i}]", clip)
        events = [_read_event(f"{name}[{i}][{j}]", event, labels_matter) for j, event in enumerate(events)]
        read.append([{key: value for key, value in event.items() if key in keys} for event in events])
    return read


def _as_list(name, values) -> list:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        hint = ", or None for an answer that could not be parsed" if name.startswith("predictions[") else ""
        wanted = (
            "the list of the clip's events, [] for none" if name.endswith("]") else "a list with one entry per clip"
        )
        raise ValueError(f"{name} is {repr(values)[:80]} ({type(values).__name__}); give {wanted}{hint}.")
    return list(values)


def _read_event(name, values, labels_matter) -> dict:
    try:
        if not isinstance(values, Mapping):
            raise ValueError("give a dict with onset, offset and event_label")
        if labels_matter and "event_label" not in values:
            raise ValueError(f"it has the keys {list(values)}; add event_label, the label that is compared.")
        return Event.from_dict(values).as_dict()
    except ValueError as error:
        raise ValueError(f"{name} is {repr(values)[:120]}: {error}") from None


def _read_numbers(name, values) -> list[float]:
    values = _as_list(name, values)
    for i, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError(f"{name}[{i}] is {value!r} ({type(value).__name__}); give a number.")
    return [float(value) for value in values]
