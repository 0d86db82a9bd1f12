"""What full fine-tuning leaves unchanged: ticks and constants, and optionally audio encoder and projector."""

import torch


def freeze_time_embeddings(model):
    """Freeze the tick rows of the input embeddings in full fine-tuning; return the hook's handle.

    Their outputs are detached, which also works for sharded weights (FSDP2, ZeRO-3), where a hook on the weights would
    not. Weight decay must skip the embeddings too, see [`NoDecayOnTicks`].
    """
    embeddings, ids = model.get_input_embeddings(), model.config.time_token_ids

    def detach_ticks(module, arguments, output):
        tokens = arguments[0]
        is_tick = (tokens >= ids.start) & (tokens < ids.stop)
        return torch.where(is_tick.unsqueeze(-1), output.detach(), output)

    handle = embeddings.register_forward_hook(detach_ticks)
    if model.get_output_embeddings().weight is embeddings.weight:
        # With tied weights they also get gradients from the head.
        rows = torch.tensor(list(ids), dtype=torch.long)
        embeddings.weight.register_hook(lambda gradient: gradient.index_fill(0, rows.to(gradient.device), 0.0))
    return handle


def freeze_constants(model):
    """Freeze an encoder's sinusoidal positions, which `from_pretrained` unfreezes."""
    positions = getattr(model.model.audio_tower, "embed_positions", None)
    if positions is not None:
        positions.requires_grad_(False)


def freeze_audio(model):
    """Freeze audio encoder and projector, and switch off the encoder's dropout."""
    model.model.audio_tower.requires_grad_(False)
    for module in model.model.audio_tower.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.model.multi_modal_projector.requires_grad_(False)


class NoDecayOnTicks:
    """Trainer mixin that exempts embeddings from weight decay, which would change the frozen ticks."""

    def get_decay_parameter_names(self, model):
        return [name for name in super().get_decay_parameter_names(model) if "embed_tokens" not in name]
