"""Text, time and audio of TimePro. Importing this package loads neither torch, transformers nor NumPy."""

import importlib

# Everything is found on first use: a checkpoint's user who only parses answers needs the standard library alone.
_MODULE_OF = {
    "Event": "events",
    "clip_events": "events",
    "shift_events": "events",
    "TimeGrid": "time_grid",
    "TASKS": "event_text",
    "escape_text": "event_text",
    "format_events": "event_text",
    "parse_events": "event_text",
    "prompt_text": "event_text",
    "AnswerGrammar": "answer_grammar",
    "AnswerConstraint": "constrained_decoding",
    "score_events": "event_scores",
    "ANNOTATION_FORMATS": "annotation_io",
    "format_annotations": "annotation_io",
    "read_annotations": "annotation_io",
    "write_annotations": "annotation_io",
    "audio_duration": "audio_io",
    "load_audio": "audio_io",
    "stream_audio": "audio_stream",
    "stream_windows": "audio_stream",
    "merge_windows": "windowing",
    "plan_windows": "windowing",
    "TimeProAudioProcessor": "processing_timepro",
    "TemporalAudioGroundingPipeline": "pipeline_timepro",
    "TimeProYamnetFeatureExtractor": "yamnet_features",
}

__all__ = list(_MODULE_OF)


def __getattr__(name):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(set(globals()) | set(__all__))
