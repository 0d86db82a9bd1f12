"""Grounding data sets: lighthouse's moment retrieval, AEGBench, SpotSound-Bench and LAT-Bench; and TREA, refused.

    lighthouse (Clotho-Moment, UnAV-100, CASTELLA, TUT 2017; other keys are ignored): {"qid": "--0w_1", "vid": "--0w",
                "query": "A car horn blares", "duration": 299, "relevant_windows": [[27, 28]]}

    AEGBench: [{"id": "a1", "audio_path": "a1.wav", "duration": 10.0, "categories": ["dog barking"],
                "clips": [{"category": "dog barking", "start": 0.5, "end": 1.25}]}], or {"items": [...]}

    SpotSound-Bench: [{"audio_path": "a.wav", "caption": "a dog barks", "annotations": [[0.5, 1.25]]}]

    LAT-Bench (`task/bench-EN-TAG.jsonl`): {"audios": ["id1"], "messages": [{"role": "user", "content": "<audio>..."},
                {"role": "assistant", "content": "[00:12-00:22]"}]}

The layouts are known from public readers of these files. Of LAT-Bench only the English grounding prompt is known: other
prompts, and its captioning tasks, are errors. TREA (github.com/iiscleap/Audio-LLM-benchmarking-uncertainty) lists the
order of sounds, but not their times: they are separated by silences of unknown length.
"""

import re
from collections.abc import Iterator

from processing.text_files import make_event, read_json_lines
from recipes.data.clip import AnnotatedClip, events_of_pairs, make_clip, require_keys, require_text
from recipes.data.readers.json_stream import first_byte, read_json_list, read_json_object

_LAT_QUESTION = re.compile(
    r"<audio>\s*Please listen to the audio carefully and locate (?P<query>.+?)"
    r" Please strictly output the result in the format of \[Start Time - End Time\]\..*", re.DOTALL,
)  # fmt: skip
_CLOCK = r"(?:(\d+):)?(\d+):([0-5]?\d(?:\.\d+)?)"
_LAT_SPAN = re.compile(rf"\[\s*{_CLOCK}\s*-\s*{_CLOCK}\s*\]", re.ASCII)


def read_moment_retrieval(path) -> Iterator[AnnotatedClip]:
    """Yield a grounding clip for every query, with the windows, if any, as events.

    Windows that end after `duration`, as in CASTELLA and UnAV-100, are kept.

    Raises:
        ValueError: a malformed line.
    """
    for where, item in read_json_lines(path):
        require_keys(item, ("qid", "query", "duration", "vid", "relevant_windows"), where)
        query, audio = (require_text(item, key, where) for key in ("query", "vid"))
        events = events_of_pairs(item["relevant_windows"], query, f"{where}, relevant_windows")
        yield make_clip(where, item["qid"], events, audio, item["duration"], query=query)


def read_aegbench(path) -> Iterator[AnnotatedClip]:
    """Yield a grounding clip for every category of every item; a category without clips is a query without events.

    Raises:
        ValueError: a malformed item, or a clip of a category that its item does not list.
    """
    for where, item in _aegbench_items(path):
        require_keys(item, ("duration", "categories", "clips"), where)
        id = item.get("benchmark_id", item.get("id"))
        audio = require_text({"audio_path": item.get("audio_rel") or item.get("audio_path")}, "audio_path", where)
        is_list = isinstance(item["clips"], list) and isinstance(item["categories"], list)
        if not is_list or not all(isinstance(category, str) for category in item["categories"]):
            raise ValueError(f"{where}: clips must be a list of objects, and categories one of strings.")
        found: dict[str, list] = {category: [] for category in item["categories"]}
        for index, clip in enumerate(item["clips"]):
            place = f"{where}.clips[{index}]"
            require_keys(clip, ("category", "start", "end"), place)
            if clip["category"] not in item["categories"]:
                raise ValueError(f"{place}: {clip['category']!r} is not in categories {item['categories']}.")
            found[clip["category"]].append(make_event(clip["start"], clip["end"], clip["category"], place))
        for index, (category, events) in enumerate(found.items()):
            yield make_clip(where, f"{id}-{index}", events, audio, item["duration"], query=category)


def read_spotsound(path) -> Iterator[AnnotatedClip]:
    """Yield a grounding clip for every row; several rows may share a recording.

    Raises:
        ValueError: a malformed row.
    """
    for index, (where, item) in enumerate(read_json_list(path)):
        require_keys(item, ("audio_path", "caption", "annotations"), where)
        audio, query = require_text(item, "audio_path", where), require_text(item, "caption", where)
        pairs = item["annotations"]
        # A single span need not be in a list.
        if isinstance(pairs, list) and len(pairs) == 2 and all(isinstance(time, int | float) for time in pairs):
            pairs = [pairs]
        events = events_of_pairs(pairs, query, f"{where}.annotations")
        yield make_clip(where, f"{audio}-{index}", events, audio, item.get("duration"), query=query)


def read_lat_bench(path) -> Iterator[AnnotatedClip]:
    """Yield a grounding clip for every line; its duration is in another file, see `durations`.

    Raises:
        ValueError: a malformed line, an unknown prompt, or an answer other than `[MM:SS-MM:SS]`.
    """
    for index, (where, item) in enumerate(read_json_lines(path)):
        require_keys(item, ("messages", "audios"), where)
        messages, audios = item["messages"], item["audios"]
        is_known = isinstance(messages, list) and isinstance(audios, list) and len(audios) == 1
        if not is_known or [isinstance(m, dict) and m.get("role") for m in messages] != ["user", "assistant"]:
            raise ValueError(f"{where} is not one question and one answer about one recording.")
        question = _LAT_QUESTION.fullmatch(str(messages[0].get("content")).strip())
        if question is None:
            raise ValueError(
                f"{where}: the question {str(messages[0].get('content'))[:80]!r} is not worded as the English "
                "grounding task of LAT-Bench (bench-EN-TAG.jsonl), the only one that is known."
            )
        answer, query = str(messages[1].get("content")).strip(), question["query"].strip()
        spans = list(_LAT_SPAN.finditer(answer))
        if not spans or _LAT_SPAN.sub("", answer).strip(" ,;\n"):
            raise ValueError(f"{where}: the answer {answer[:80]!r} is not of [MM:SS-MM:SS].")
        events = [make_event(_seconds(span.groups()[:3]), _seconds(span.groups()[3:]), query, where) for span in spans]
        yield make_clip(where, f"{audios[0]}-{index}", events, str(audios[0]), query=query)


def read_trea(path) -> Iterator[AnnotatedClip]:
    """Refuse a table of TREA.

    Raises:
        ValueError: always, because TREA has no onsets and offsets.
    """
    raise ValueError(
        f"{path} is a table of TREA, whose questions have options and whose sounds have no times; score it by its own "
        "script, or annotate its recordings and give these annotations."
    )


def _aegbench_items(path):
    if first_byte(path) == b"[":
        yield from read_json_list(path)
        return
    for where, key, member in read_json_object(path):
        if key == "items" and isinstance(member, list):
            for index, item in enumerate(member):
                yield f"{where}[{index}]", item


def _seconds(groups) -> float:
    hours, minutes, seconds = groups
    return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds)
