"""What a run leaves behind: the trained checkpoint, and its adapter, if it has one."""

from pathlib import Path

from recipes.conversion.checkpoint import save_checkpoint
from recipes.conversion.merge import merge


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
        merge(out / "adapter", out / "final", overwrite=True)
    elif is_adapted:
        save_checkpoint(model.merge_and_unload(), processor, out / "final")
    else:
        save_checkpoint(model, processor, out / "final", state_dict=state_dict)
    trainer.state.save_to_json(str(out / "final" / "trainer_state.json"))


__all__ = ["save_trained"]
