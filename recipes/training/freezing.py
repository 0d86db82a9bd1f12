"""What full fine-tuning does not change: ticks and constants always, audio encoder and projector if asked."""

import torch


def freeze_time_embeddings(model):
    """Keep the tick rows of the input embeddings from changing in full fine-tuning; return the hook's handle.

    What is looked up of them takes no part in the gradient. That holds for weights that are split over processes too
    (FSDP2, ZeRO-3), of which a hook on the weights would see nothing. Weight decay must skip the embeddings too, see
    [`NoDecayOnTicks`].
    """
    embeddings, ids = model.get_input_embeddings(), model.config.time_token_ids

    def detach_ticks(module, arguments, output):
        tokens = arguments[0]
        is_tick = (tokens >= ids.start) & (tokens < ids.stop)
        return torch.where(is_tick.unsqueeze(-1), output.detach(), output)

    handle = embeddings.register_forward_hook(detach_ticks)
    if model.get_output_embeddings().weight is embeddings.weight:
        # As the head's rows they have gradients all the same.
        rows = torch.tensor(list(ids), dtype=torch.long)
        embeddings.weight.register_hook(lambda gradient: gradient.index_fill(0, rows.to(gradient.device), 0.0))
    return handle


def freeze_constants(model):
    """Freeze an encoder's positions: sinusoids, which their class freezes but `from_pretrained` does not."""
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
    """Make a trainer exempt the embeddings from weight decay, which would change the frozen ticks among them."""

    def get_decay_parameter_names(self, model):
        return [name for name in super().get_decay_parameter_names(model) if "embed_tokens" not in name]
