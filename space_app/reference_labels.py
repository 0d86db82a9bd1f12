"""`read_reference`: the true events of a recording, from a file of labels in any format that the project imports."""

from pathlib import Path

from space_app.checkpoint_code import carried
from space_app.exchange import guess_exchange_format
from space_app.recordings import without_folder


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
