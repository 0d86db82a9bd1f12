"""Save and load TimePro checkpoints: weights, settings, processor and the code that reads them."""

import inspect
import logging
from pathlib import Path

from transformers import AutoFeatureExtractor, AutoTokenizer

from modeling_timepro import TimeProAudioForCausalLM
from processing import TimeProAudioProcessor, TimeProYamnetFeatureExtractor

logger = logging.getLogger(__name__)


def save_checkpoint(model, processor, out, state_dict=None) -> None:
    """Write a self-contained checkpoint directory that loads with `trust_remote_code=True` anywhere.

    Args:
        state_dict: the weights, where the model itself does not hold them whole.
    """
    # Backbones loaded by transformers may remember legacy key names and write those back; ours never does.
    model.save_pretrained(out, save_original_format=False, state_dict=state_dict)
    processor.save_pretrained(out)


def save_trained(trainer, processor) -> None:
    """Write what a trainer has made to its `output_dir`: `final/`, adapters merged into it, and `adapter/`, if any."""
    trainer.accelerator.wait_for_everyone()
    # Of a model that is split over processes (FSDP2, ZeRO-3) each holds a part, so all must help to gather it.
    state_dict = None
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        state_dict = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        _write_trained(trainer, processor, state_dict)
    # Who ends earlier than others may take them along.
    trainer.accelerator.wait_for_everyone()


def _write_trained(trainer, processor, state_dict):
    out = Path(trainer.args.output_dir)
    model = trainer.accelerator.unwrap_model(trainer.model)
    is_adapted = hasattr(model, "merge_and_unload")
    if is_adapted:
        # Beside it may stand a frozen reference.
        model.save_pretrained(out / "adapter", selected_adapters=["default"], state_dict=state_dict)
    if is_adapted and state_dict is not None:
        from recipes.conversion.merge import merge

        merge(out / "adapter", out / "final", overwrite=True)
    elif is_adapted:
        save_checkpoint(model.merge_and_unload(), processor, out / "final")
    else:
        save_checkpoint(model, processor, out / "final", state_dict=state_dict)
    trainer.state.save_to_json(str(out / "final" / "trainer_state.json"))


def load_checkpoint(path, **kwargs):
    """Return `(model, processor)` of a checkpoint directory, in this package's own classes.

    Args:
        kwargs: passed to `from_pretrained` of the model, e.g. `dtype` or `attn_implementation`.

    Raises:
        ValueError: weights are missing from the checkpoint or unknown to the model.
    """
    model, info = TimeProAudioForCausalLM.from_pretrained(path, output_loading_info=True, **kwargs)
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    problems = {kind: sorted(info[kind]) for kind in kinds if info[kind]}
    if problems:
        raise ValueError(f"path is {str(path)!r} but its weights do not fit the model: {problems}. Convert it again.")
    return model, load_processor(path)


def load_processor(path):
    """Return the processor of a checkpoint, in this package's own classes, running none of the checkpoint's code."""
    settings, _ = TimeProAudioProcessor.get_processor_dict(path)
    if settings["feature_extractor"]["feature_extractor_type"] == "TimeProYamnetFeatureExtractor":
        extractor = TimeProYamnetFeatureExtractor.from_pretrained(path)
    else:
        extractor = AutoFeatureExtractor.from_pretrained(path)
    known = set(inspect.signature(TimeProAudioProcessor).parameters) - {"feature_extractor", "tokenizer"}
    fields = {key: value for key, value in settings.items() if key in known}
    return TimeProAudioProcessor(extractor, AutoTokenizer.from_pretrained(path), **fields)
