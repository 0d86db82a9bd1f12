"""Save and load TimePro checkpoints: weights, settings, processor and code."""

import inspect

from transformers import AutoFeatureExtractor, AutoTokenizer

from modeling_timepro import TimeProAudioForCausalLM
from processing import TimeProAudioProcessor, TimeProYamnetFeatureExtractor


def save_checkpoint(model, processor, out, state_dict=None) -> None:
    """Write a self-contained checkpoint directory that loads with `trust_remote_code=True` anywhere.

    Args:
        state_dict: the weights, if the model's own are sharded.
    """
    # Otherwise transformers may restore the legacy key names of a backbone.
    model.save_pretrained(out, save_original_format=False, state_dict=state_dict)
    processor.save_pretrained(out)


def load_checkpoint(path, **kwargs):
    """Return `(model, processor)` of a checkpoint directory, in this package's own classes.

    Args:
        kwargs: for `from_pretrained` of the model, e.g. `dtype` or `attn_implementation`.

    Raises:
        ValueError: the checkpoint has missing or unknown weights.
    """
    model, info = TimeProAudioForCausalLM.from_pretrained(path, output_loading_info=True, **kwargs)
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    problems = {kind: sorted(info[kind]) for kind in kinds if info[kind]}
    if problems:
        raise ValueError(f"path is {str(path)!r} but its weights do not fit the model: {problems}. Convert it again.")
    return model, load_processor(path)


def load_processor(path):
    """Return the processor of a checkpoint, in this package's own classes, without running the checkpoint's code."""
    settings, _ = TimeProAudioProcessor.get_processor_dict(path)
    if settings["feature_extractor"]["feature_extractor_type"] == "TimeProYamnetFeatureExtractor":
        extractor = TimeProYamnetFeatureExtractor.from_pretrained(path)
    else:
        extractor = AutoFeatureExtractor.from_pretrained(path)
    known = set(inspect.signature(TimeProAudioProcessor).parameters) - {"feature_extractor", "tokenizer"}
    fields = {key: value for key, value in settings.items() if key in known}
    return TimeProAudioProcessor(extractor, AutoTokenizer.from_pretrained(path), **fields)
