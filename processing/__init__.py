"""Text, time and audio of TimePro. Importing this package loads neither torch, transformers nor NumPy."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .annotations import ANNOTATION_FORMATS, format_annotations, read_annotations
    from .answer_grammar import AnswerGrammar
    from .answer_text import TASKS, escape_text, format_events, parse_events, prompt_text
    from .audio_io import audio_duration, load_audio, stream_audio, stream_windows
    from .constrained_decoding import AnswerConstraint
    from .event_scores import score_events
    from .events import Event, TimeGrid, clip_events, normalize_label, shift_events
    from .pipeline_timepro import TemporalAudioGroundingPipeline
    from .processing_timepro import TimeProAudioProcessor
    from .windowing import merge_windows, plan_windows
    from .yamnet_features import TimeProYamnetFeatureExtractor

# Modules are imported on first use: parsing answers needs only the standard library.
_NAMES = {
    "annotations": ("ANNOTATION_FORMATS", "format_annotations", "read_annotations"),
    "answer_grammar": ("AnswerGrammar",),
    "answer_text": ("TASKS", "escape_text", "format_events", "parse_events", "prompt_text"),
    "audio_io": ("audio_duration", "load_audio", "stream_audio", "stream_windows"),
    "constrained_decoding": ("AnswerConstraint",),
    "event_scores": ("score_events",),
    "events": ("Event", "TimeGrid", "clip_events", "normalize_label", "shift_events"),
    "pipeline_timepro": ("TemporalAudioGroundingPipeline",),
    "processing_timepro": ("TimeProAudioProcessor",),
    "windowing": ("merge_windows", "plan_windows"),
    "yamnet_features": ("TimeProYamnetFeatureExtractor",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

# A literal, for type checkers.
__all__ = [
    "ANNOTATION_FORMATS", "TASKS", "AnswerConstraint", "AnswerGrammar", "Event", "TemporalAudioGroundingPipeline",
    "TimeGrid", "TimeProAudioProcessor", "TimeProYamnetFeatureExtractor", "audio_duration", "clip_events",
    "escape_text", "format_annotations", "format_events", "load_audio", "merge_windows", "normalize_label",
    "parse_events", "plan_windows", "prompt_text", "read_annotations", "score_events", "shift_events",
    "stream_audio", "stream_windows",
]  # fmt: skip


def __getattr__(name):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(set(globals()) | set(__all__))
