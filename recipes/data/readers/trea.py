"""TREA (github.com/iiscleap/Audio-LLM-benchmarking-uncertainty): recognised, and refused with the reason.

    id,question,audio_path,optionA,optionB,optionC,optionD,correct,source_wavs,source_categories

Its tables list the order of sounds, but not their times: they are separated by silences of unknown length.
"""

from collections.abc import Iterator

from recipes.data.clip import AnnotatedClip


def read_trea(path) -> Iterator[AnnotatedClip]:
    """Refuse a table of TREA.

    Raises:
        ValueError: always, because TREA has no onsets and offsets.
    """
    raise ValueError(
        f"{path} is a table of TREA, whose questions have options and whose sounds have no times; score it by its own "
        "script, or annotate its recordings and give these annotations."
    )
