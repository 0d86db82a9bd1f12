"""The rows of supervised fine-tuning: those of `event_lines.py`, and what they may know for training besides."""

from pathlib import Path

from processing.audio_io import audio_duration
from processing.text_files import read_json_lines
from recipes.data.readers.event_lines import row_of

# `absent`: labels that the recording does not hold; `question`: the words to ask in; `stem_index`: see `stem_cache.py`.
EXTRA_KEYS = ("absent", "question", "stem_index")


def read_training_rows(path, has_audio=True, limit=None) -> list[dict]:
    """Return the rows of a file of JSON Lines, all of which can be trained on.

    Args:
        path: its audio paths are relative to its folder.
        has_audio: whether the recordings are heard, and not stored features of them. A row without `duration` lasts as
            long as its recording then.
        limit: only the first so many rows.

    Raises:
        FileNotFoundError: recordings are missing; all of them are listed.
        ValueError: a malformed line; or rows without a duration, and no recordings to look at.
    """
    folder, rows = Path(path).parent, []
    for where, item in read_json_lines(path):
        if limit is not None and len(rows) == limit:
            break
        row = row_of(item, where)
        rows.append(row | {key: item[key] for key in EXTRA_KEYS if item.get(key) is not None})
        _check_extras(rows[-1], where)
    missing = [row["audio"] for row in rows if not (folder / row["audio"]).is_file()] if has_audio else []
    if missing:
        raise FileNotFoundError(f"{len(missing)} audio files of {path} are missing: {missing}")
    unknown = [row for row in rows if row["duration"] is None]
    if unknown and not has_audio:
        raise ValueError(f"{path} has {len(unknown)} rows without a duration, {unknown[0]['id']!r} first; add it.")
    for row in unknown:
        row["duration"] = audio_duration(folder / row["audio"])
    return rows


def _check_extras(row, where):
    absent, question = row.get("absent", []), row.get("question")
    if not isinstance(absent, list) or not all(isinstance(label, str) and label for label in absent):
        raise ValueError(f"{where}: absent is {absent!r}; give a list of labels.")
    if question is not None and (not isinstance(question, str) or not question.strip()):
        raise ValueError(f"{where}: question is {question!r}; give the words to ask in, or leave it out.")


__all__ = ["read_training_rows"]
