"""Reference labels of one recording, from a file in any format that the project reads, and how events agree with them.

The measures are those of the project's reports, whose tests hold the two equal; here they need nothing but SciPy.
"""

from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from space_app.checkpoint_code import carried
from space_app.exchange import guess_exchange_format
from space_app.recordings import without_folder

# Seconds; the tolerance lets 0.2 s apart be within 0.2 s wherever it is in the recording, as in the reports.
T_COLLAR, PERCENTAGE_OF_LENGTH, TOLERANCE = 0.2, 0.2, 1e-6


def read_reference(pipe, path: str, name: str) -> list:
    """Return the events of a recording.

    Args:
        path: of the labels.
        name: of the recording; where a file is about several, that one is taken.

    Returns:
        list of the checkpoint's `Event`s, times in seconds.

    Raises:
        ValueError: not a file of labels, or about other recordings alone; the path is not named.
    """
    try:
        recordings = pipe.read_annotations(path, guess_exchange_format(path))
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"The labels cannot be read: {without_folder(str(error), path)}") from None
    stem = carried(pipe, "text_files").audio_stem
    named = [recording for recording in recordings if stem(recording["file"]) == stem(name)]
    if len(recordings) > 1 and not named:
        files = ", ".join(recording["file"] for recording in recordings[:3])
        raise ValueError(f"{Path(path).name} has labels of {files} and others, but none of {name}.")
    event = carried(pipe, "events").Event
    return [event.from_dict(values) for recording in (named or recordings)[:1] for values in recording["events"]]


def score_file(reference: list, prediction: list, time_only: bool = False) -> dict:
    """Score the events of one recording.

    Args:
        reference, prediction: events with `onset`, `offset` (seconds) and `event_label`.
        time_only: whether labels play no part, as for captions.

    Returns:
        `f1`, the event-based F1 of sed_eval (onsets within 0.2 s; offsets within 0.2 s or 20 % of the reference's
        length), and the numbers it is made of, `num_matched`, `num_reference` and `num_predicted`; `miou`, the mean
        over labels that are present of the intersection over union of all that is annotated and all that is predicted
        of the label, `None` if no label is present.
    """
    names = [""] if time_only else sorted({event.event_label for event in reference})
    pairs = [(pick(reference, name, time_only), pick(prediction, name, time_only)) for name in names]
    num_matched = sum(count_matches(*pair) for pair in pairs)
    total = len(reference) + len(prediction)
    return {
        "f1": 2 * num_matched / total if total else 1.0,
        "num_matched": num_matched,
        "num_reference": len(reference),
        "num_predicted": len(prediction),
        "miou": float(np.mean([union_iou(*pair) for pair in pairs])) if reference else None,
    }


def pick(events, label, time_only=False):
    """Return the events of a label."""
    return [event for event in events if time_only or event.event_label == label]


def count_matches(reference, prediction) -> int:
    """Return how many events of one label can be paired one to one within the collars."""
    if not reference or not prediction:
        return 0
    near = [
        [
            abs(found.onset - true.onset) <= T_COLLAR + TOLERANCE
            and abs(found.offset - true.offset)
            <= max(T_COLLAR, PERCENTAGE_OF_LENGTH * (true.offset - true.onset)) + TOLERANCE
            for found in prediction
        ]
        for true in reference
    ]
    return int((maximum_bipartite_matching(csr_matrix(np.array(near))) >= 0).sum())


def union_iou(reference, prediction) -> float:
    """Return the length of what both cover over the length of what either covers."""
    # On the pieces between all times, a side covers a piece or does not.
    edges = np.unique([time for event in (*reference, *prediction) for time in (event.onset, event.offset)])
    middles, lengths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    first, second = (
        np.any([(event.onset <= middles) & (middles < event.offset) for event in side], axis=0) if side
        else np.zeros(len(middles), bool) for side in (reference, prediction)
    )  # fmt: skip
    either = lengths[first | second].sum()
    return float(lengths[first & second].sum() / either) if either else float(_spans(reference) == _spans(prediction))


def _spans(events):
    return {(event.onset, event.offset) for event in events}
