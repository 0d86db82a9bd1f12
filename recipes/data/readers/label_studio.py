"""Audio regions of Label Studio, in its JSON and JSON-MIN exports.

    [{"id": 1, "data": {"audio": "/data/upload/1/1a2b3c4d-night.wav"}, "annotations": [{"result": [
      {"type": "labels", "original_length": 10.0, "value": {"start": 0.5, "end": 1.25, "labels": ["dog"]}}]}]}]

    [{"id": 1, "audio": "/data/upload/1/1a2b3c4d-night.wav", "label": [{"start": 0.5, "end": 1.25, "labels": ["dog"]}]}]

Known from its documentation and public exports. Times are seconds.
"""

from collections.abc import Iterator
from urllib.parse import parse_qs, unquote, urlsplit

from processing.text_files import make_event
from recipes.data.clip import AnnotatedClip, make_clip, require_keys
from recipes.data.readers.json_stream import read_json_list


def read_label_studio(path) -> Iterator[AnnotatedClip]:
    """Yield a clip for every task; a region with several labels gives an event of each.

    Results without times (choices, transcriptions) are passed over. The recording is named as the file that Label
    Studio keeps, without folder.

    Raises:
        ValueError: a malformed task; one that several people have annotated, none of them as ground truth; or one that
            names no recording, or several.
    """
    for where, task in read_json_list(path):
        require_keys(task, ("id",), where)
        if "data" in task:
            # Versions before 1.0 say completions.
            annotations = task.get("annotations", task.get("completions", []))
            fields, results = task["data"], _results(annotations, where)
        else:
            fields = {name: value for name, value in task.items() if isinstance(value, str)}
            results = [
                {"value": region} for value in task.values() if isinstance(value, list)
                for region in value if isinstance(region, dict)
            ]  # fmt: skip
        events, duration = [], None
        for index, result in enumerate(results):
            value, place = result.get("value"), f"{where}, region {index}"
            if not isinstance(value, dict) or not {"start", "end"} <= set(value):
                continue
            labels = value.get("labels", value.get("timeserieslabels"))
            # What was written about a region repeats its times under the type `textarea`.
            if labels is None and result.get("type") not in (None, "labels"):
                continue
            if not isinstance(labels, list) or not labels:
                raise ValueError(f"{place} has the labels {labels!r}; give every region a label.")
            events += [make_event(value["start"], value["end"], label, place) for label in labels]
            duration = duration or result.get("original_length")
        yield make_clip(where, str(task["id"]), events, _recording(fields, where), duration)


def _results(annotations, where) -> list[dict]:
    if not isinstance(annotations, list) or not all(isinstance(item, dict) for item in annotations):
        raise ValueError(f"{where}: annotations is {annotations!r}; give a list of objects.")
    kept = [item for item in annotations if not item.get("was_cancelled")]
    kept = [item for item in kept if item.get("ground_truth")] or kept
    if len(kept) > 1:
        raise ValueError(f"{where} has {len(kept)} annotations; mark one as ground truth, or export one.")
    results = kept[0].get("result", []) if kept else []
    if not isinstance(results, list) or not all(isinstance(item, dict) for item in results):
        raise ValueError(f"{where}: result is {results!r}; give a list of objects.")
    return results


def _recording(fields, where) -> str:
    if not isinstance(fields, dict):
        raise ValueError(f"{where}: data is {fields!r}; give an object that names the recording.")
    names = ("audio", "file", "url", "sound", "recording")
    found = [fields[name] for name in names if isinstance(fields.get(name), str)]
    found = found or [value for value in fields.values() if isinstance(value, str) and "." in value.rpartition("/")[2]]
    if len(found) != 1:
        raise ValueError(f"{where} names {len(found)} recordings in {list(fields)}; name one as audio.")
    url = urlsplit(found[0])
    # Files that were not uploaded: `/data/local-files/?d=folder/night.wav`.
    (path,) = parse_qs(url.query).get("d", [unquote(url.path)])[:1]
    return path.rpartition("/")[2]
