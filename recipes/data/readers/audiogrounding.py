"""AudioGrounding v2 (github.com/wsntxxn/TextToAudioGrounding): phrases of AudioCaps captions with their times.

A file:

    [{"audiocap_id": 7, "audio_id": "Yabc.wav", "tokens": ["a", "dog", "barks"],
      "phrases": [{"phrase": ["a", "dog", "barks"], "start_index": 0, "end_index": 2,
                   "segments": [[0.4, 1.2], [0, 0]]}]}]
"""

from collections.abc import Iterator

from recipes.data.clip import AnnotatedClip, events_of_pairs, make_clip, require_keys, require_text
from recipes.data.readers.json_stream import read_json_list


def read_audiogrounding(path) -> Iterator[AnnotatedClip]:
    """Yield a grounding clip for every phrase.

    Segments `[0, 0]` are padding and ignored; a phrase without other segments is a query without events. The id is
    `<audiocap_id>-<position of the phrase>`.

    Raises:
        ValueError: a malformed item; the message names its position in the JSON.
    """
    for where, item in read_json_list(path):
        require_keys(item, ("audiocap_id", "audio_id", "phrases"), where)
        audio, phrases = require_text(item, "audio_id", where), item["phrases"]
        if not isinstance(phrases, list):
            raise ValueError(f"{where}.phrases is {phrases!r}; give a list of objects.")
        for index, phrase in enumerate(phrases):
            place = f"{where}.phrases[{index}]"
            require_keys(phrase, ("phrase", "segments"), place)
            query = _query(phrase["phrase"], f"{place}.phrase")
            events = events_of_pairs(phrase["segments"], query, f"{place}.segments")
            events = [event for event in events if event.offset > 0]
            yield make_clip(place, f"{item['audiocap_id']}-{index}", events, audio, query=query)


def _query(phrase, where):
    """Return a phrase, text or a list of tokens, as text."""
    tokens = [phrase] if isinstance(phrase, str) else phrase
    if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens) or not " ".join(tokens).strip():
        raise ValueError(f"{where} is {phrase!r}; give the tokens of the phrase.")
    return " ".join(tokens)
