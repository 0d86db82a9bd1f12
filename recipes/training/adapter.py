"""LoRA adapters: configure, load for further training, and merge after training."""

import re
from pathlib import Path

from peft import PeftConfig, PeftModel
from trl import get_peft_config

from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.conversion.merge import merge


def adapter_config(model_arguments) -> PeftConfig | None:
    """Return PEFT's configuration for TRL's `ModelConfig`, or `None` for full fine-tuning.

    TRL turns a single target module into a string, which PEFT interprets as a pattern for the whole path of a module;
    here it remains the name of a module.
    """
    config = get_peft_config(model_arguments)
    if config is not None and isinstance(config.target_modules, str):
        if re.fullmatch(r"\w+(\.\w+)*", config.target_modules):
            config.target_modules = {config.target_modules}
    return config


def load_policy(path, **kwargs):
    """Return `(model, processor)` of a checkpoint, or of an adapter with its checkpoint, ready for training."""
    if not (Path(path) / "adapter_config.json").is_file():
        return load_checkpoint(path, **kwargs)
    model, processor = load_checkpoint(PeftConfig.from_pretrained(path).base_model_name_or_path, **kwargs)
    return PeftModel.from_pretrained(model, path, is_trainable=True), processor


def save_trained(trainer, processor) -> None:
    """Write the trained model, adapters merged, to `final/` in `output_dir`, and the adapter, if any, to `adapter/`."""
    final = write_policy(trainer, processor, Path(trainer.args.output_dir), is_last=True)
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(final / "trainer_state.json"))


def write_policy(trainer, processor, out, is_last=False) -> Path:
    """Write what is trained, as it is now, to `out`: `final/`, which is returned, and `adapter/`, if any.

    With `is_last` adapters are merged in memory, where they fit, and the model is not to be trained on.
    """
    trainer.accelerator.wait_for_everyone()
    # If the model is sharded (FSDP2, ZeRO-3), all processes must take part in gathering it.
    state_dict = None
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        state_dict = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        _write(model, processor, state_dict, out, is_last and state_dict is None)
    # A process that ends early may stop the others.
    trainer.accelerator.wait_for_everyone()
    return out / "final"


def _write(model, processor, state_dict, out, merges_in_memory):
    is_adapted = hasattr(model, "merge_and_unload")
    if is_adapted:
        # There may also be a frozen reference.
        model.save_pretrained(out / "adapter", selected_adapters=["default"], state_dict=state_dict)
    if is_adapted and not merges_in_memory:
        merge(out / "adapter", out / "final", overwrite=True)
    elif is_adapted:
        save_checkpoint(model.merge_and_unload(), processor, out / "final")
    else:
        save_checkpoint(model, processor, out / "final", state_dict=state_dict)
