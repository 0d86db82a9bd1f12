"""FTAR (huggingface.co/datasets/lysanderism/FTAR): questions about recordings, with times in the answers.

    [{"id": "Y1", "audio": "Y1.wav", "question": "What are the start and end times of audio matching 'dogs barking'?",
      "answer": "1.2 - 3.4", "duration": 10.0}]

Grounding questions quote the query. Dense captions and timeline summaries ask for times and descriptions. The fourth
kind of file, `open_audio_TQA.json`, asks for neither and is an error. Questions and time spans follow TimeAudio's
`prompts/train_prompt.json` and `instruct_dataset`.
"""

import re
from collections.abc import Iterator

from processing.answer_text import parse_events
from processing.text_files import make_event
from recipes.data.clip import AnnotatedClip, make_clip, require_keys, require_text
from recipes.data.readers.json_stream import read_json_list

FTAR_KEYS = ("id", "audio", "question", "answer", "duration")
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
# Unlike TimeAudio's, it does not match within `-1.2 - 3.4` and `0:12 - 0:22`: these are errors.
_SPAN = re.compile(rf"(?<![0-9.\-])(?<![0-9]:){_NUMBER}\s*-\s*{_NUMBER}(?![0-9]|[.:][0-9])")
_SEPARATORS = re.compile(r"(?:[\s,;.]|\band\b|\bs\b|\bsec(?:onds)?\b)*")
# An apostrophe does not end a query: `a dog's bark`.
_QUERY = re.compile(r"(?<!\w)'(.+)'(?!\w)", re.DOTALL)
_ASKS_FOR_TIMES = re.compile(r"\b(?:times?|timestamps?)\b", re.IGNORECASE)
_EDGES = " \t\r\n,;:()[]|-"


def read_ftar(path) -> Iterator[AnnotatedClip]:
    """Yield a clip for every question: grounding if it quotes a query, else captioning.

    FTAR's ids name recordings; since there may be several questions about one, the position in the list is appended,
    `<id>-<position>`.

    Raises:
        ValueError: a malformed item, or a question or answer that is not about times.
    """
    for index, (where, item) in enumerate(read_json_list(path)):
        require_keys(item, FTAR_KEYS, where)
        question, answer, audio = (require_text(item, key, where) for key in ("question", "answer", "audio"))
        query = _QUERY.search(question)
        if not _ASKS_FOR_TIMES.search(question[: query.start()] + question[query.end() :] if query else question):
            raise ValueError(
                f"{where}.question is {question!r}, which asks for no times; load temporal_audio_grounding.json, "
                "dense_audio_caption.json or a timeline summary of FTAR."
            )
        id, duration = f"{item['id']}-{index}", item["duration"]
        if query:
            events = _grounded(answer, query[1].strip(), f"{where}.answer")
            yield make_clip(where, id, events, audio, duration, "grounding", query[1].strip())
        else:
            yield make_clip(where, id, _captioned(answer, f"{where}.answer"), audio, duration, "captioning")


def _grounded(answer, query, where):
    """Return the events of an answer that consists of spans."""
    spans = list(_SPAN.finditer(answer))
    if not spans and parse_events(answer, "grounding", query) == []:
        return []
    if not spans or not _SEPARATORS.fullmatch(_SPAN.sub("", answer)):
        raise ValueError(f"{where} is {answer!r}; give spans of seconds, such as '1.2 - 3.4, 5.0 - 6.1'.")
    return [make_event(float(span[1]), float(span[2]), query, where) for span in spans]


def _captioned(answer, where):
    """Return the events of an answer in which all spans precede, or all spans follow, their descriptions."""
    spans = list(_SPAN.finditer(answer))
    # Where times have decimals, `2-3 dogs bark` is part of a description.
    if any("." in span[1] and "." in span[2] for span in spans):
        spans = [span for span in spans if "." in span[1] or "." in span[2]]
    if not spans:
        if parse_events(answer, "captioning") == []:
            return []
        raise ValueError(f"{where} is {answer!r}, without spans such as '1.2 - 3.4'; give times in seconds.")
    edges = [0, *(place for span in spans for place in span.span()), len(answer)]
    pieces = [answer[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    # A full stop ends a description but does not begin one.
    texts = [piece.strip(_EDGES).lstrip("." + _EDGES) for piece in pieces]
    captions = texts[:-1] if texts[0] else texts[1:]
    if not all(captions) or (texts[0] and texts[-1]):
        raise ValueError(
            f"{where} is {answer!r}; every span needs one description, always after it or always before it."
        )
    return [
        make_event(float(span[1]), float(span[2]), caption, where)
        for span, caption in zip(spans, captions, strict=True)
    ]
