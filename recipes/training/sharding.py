"""Support for weights sharded over processes by FSDP2 or DeepSpeed."""

from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from transformers.integrations import is_deepspeed_zero3_enabled

from recipes.conversion.merge import OFF


def gather_for(model, method: str) -> None:
    """Make a method of a model gather its weights first, as its forward pass does, if FSDP2 has sharded them.

    Args:
        model: the outermost module; inner ones do not gather weights that they share with it.
    """
    if isinstance(model, FSDPModule) and method not in vars(model):
        register_fsdp_forward_method(model, method)


def check_generation(is_fsdp: bool, is_adapter: bool) -> None:
    """Raise `ValueError` if answers cannot be generated between steps.

    `generate` of an adapter bypasses the wrapper that would gather the weights.
    """
    if is_fsdp and is_adapter:
        raise ValueError(
            "distributed_type is FSDP, under which a model with an adapter cannot generate answers; choose "
            "recipes/configs/accelerate/ddp.yaml or deepspeed_zero2.yaml: an adapter leaves little to split."
        )


def check_training(trainer, reading_losses=()) -> None:
    """Raise `ValueError` if a run with sharded weights would fail later, perhaps after training.

    Args:
        trainer: ready to train.
        reading_losses: names of the active losses of `recipes/training/auxiliary_losses.py`.
    """
    if reading_losses and (trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled()):
        raise ValueError(
            f"{', '.join(f'{name}_weight' for name in reading_losses)} are on, which look into layers that FSDP and "
            "ZeRO-3 split; set them to 0, or choose ddp.yaml or deepspeed_zero2.yaml."
        )
    settings = getattr(trainer.model, "peft_config", {}).get("default")
    odd = [name for name in OFF if settings is not None and getattr(settings, name, None)]
    if odd and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise ValueError(
            f"{', '.join(odd)} are set, but under FSDP or DeepSpeed only plain LoRA is merged in the end; "
            "leave them out, or choose ddp.yaml."
        )
