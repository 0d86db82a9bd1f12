"""From counts to scores: F1, precision, recall and error rates, over everything and by label.

The formulas are those of Mesaros, Heittola and Virtanen 2016, "Metrics for Polyphonic Sound Event Detection", as
implemented in `sed_eval` 0.2.1, except that every ratio is defined. For cases where `sed_eval` returns NaN (precision
without predictions, recall without references) or divides by its machine epsilon (error rates without references), see
[`f_scores`] and [`error_rates`].
"""

from typing import NamedTuple

import numpy as np


class ClipCounts(NamedTuple):
    """Counts of each clip, in events or segments.

    Args:
        totals: int array `(num_clips, 6)`: matches, references, predictions, substitutions, deletions, insertions.
        labels: all labels, sorted.
        label_rows: int array `(num_rows, 5)`: index of the clip, index of the label, matches, references, predictions.
            Rows of the same clip and label add up. A sparse format, because open vocabularies have many labels.
    """

    totals: np.ndarray
    labels: list[str]
    label_rows: np.ndarray


def f_scores(counts) -> dict[str, np.ndarray]:
    """Return `f1`, `precision` and `recall` (...) from numbers of matches, references and predictions (..., 3).

    If a denominator is 0, the ratio is 1.0 if there are neither references nor predictions, else 0.0.
    """
    matches, references, predictions = np.moveaxis(np.asarray(counts), -1, 0)
    nothing_at_all = ((references == 0) & (predictions == 0)).astype(np.float64)
    return {
        "f1": _ratio(2 * matches, references + predictions, nothing_at_all),
        "precision": _ratio(matches, predictions, nothing_at_all),
        "recall": _ratio(matches, references, nothing_at_all),
    }


def macro_f_scores(counts) -> dict[str, np.ndarray]:
    """Return the means (...) of [`f_scores`] over the labels of `counts` (..., num_labels, 3) that have references.

    If no label has references, they are the scores over all events.
    """
    counts = np.asarray(counts)
    is_counted = counts[..., 1] > 0
    overall = f_scores(counts.sum(axis=-2))
    return {
        name: _ratio(np.sum(scores, axis=-1, where=is_counted), is_counted.sum(axis=-1), overall[name])
        for name, scores in f_scores(counts).items()
    }


def error_rates(substitutions, deletions, insertions, references) -> dict[str, np.ndarray]:
    """Return the `error_rate` and its three parts, errors per reference. Many insertions lift it above 1.

    Without references the rate is the number of errors (`sed_eval` divides by 2.2e-16).
    """
    references = np.maximum(references, 1)
    rates = {
        "substitution_rate": substitutions / references,
        "deletion_rate": deletions / references,
        "insertion_rate": insertions / references,
    }
    return {"error_rate": sum(rates.values()), **rates}


def score_counts(counts: ClipCounts) -> dict:
    """Return the scores of all clips together.

    Returns:
        `micro` over everything and `macro` over the labels with references, each with `f1`, `precision` and `recall`;
        `micro_errors` with the four rates of [`error_rates`] and `num_substitutions`, `num_deletions` and
        `num_insertions`; `macro_errors` and `class_wise`, without substitutions, because within a label a wrong event
        is an insertion. `class_wise` has scores, rates, `num_matches`, `num_references` and `num_predictions` by label.
    """
    matches, references, predictions, *errors = counts.totals.sum(axis=0).tolist()
    labels, columns = counts.label_rows[:, 1], counts.label_rows[:, 2:].T
    by_label = np.stack([np.bincount(labels, column, len(counts.labels)) for column in columns], axis=1).astype(int)
    micro_errors = _floats(error_rates(*errors, references))
    class_wise = {label: _class_scores(row) for label, row in zip(counts.labels, by_label, strict=True)}
    counted = [scores for scores in class_wise.values() if scores["num_references"]]
    names = ("error_rate", "deletion_rate", "insertion_rate")
    return {
        "micro": _floats(f_scores([matches, references, predictions])),
        "macro": _floats(macro_f_scores(by_label)),
        "micro_errors": micro_errors
        | dict(zip(("num_substitutions", "num_deletions", "num_insertions"), errors, strict=True)),
        "macro_errors": {
            name: float(np.mean([scores[name] for scores in counted])) if counted else micro_errors[name]
            for name in names
        },
        "class_wise": class_wise,
    }


def parse_failure_rate(predictions) -> float:
    """Return the fraction of predictions that are `None`; 0.0 without predictions."""
    return sum(prediction is None for prediction in predictions) / max(len(predictions), 1)


def check_lengths(references, predictions, empty=True):
    """Raise `ValueError` unless there is one prediction per reference, and, unless `empty`, at least one."""
    if len(references) != len(predictions):
        raise ValueError(
            f"references has {len(references)} entries and predictions {len(predictions)}; give one prediction, "
            "possibly [] or None, for each reference."
        )
    if not empty and not len(references):
        raise ValueError("references is empty; give at least one pair.")


def _class_scores(row) -> dict:
    matches, references, predictions = row.tolist()
    rates = error_rates(0, references - matches, predictions - matches, references)
    del rates["substitution_rate"]
    numbers = {"num_matches": matches, "num_references": references, "num_predictions": predictions}
    return {**_floats(f_scores(row)), **_floats(rates), **numbers}


def _ratio(numerator, denominator, otherwise) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.array(otherwise, dtype=np.float64), where=denominator != 0)


def _floats(scores) -> dict[str, float]:
    return {name: float(value) for name, value in scores.items()}
