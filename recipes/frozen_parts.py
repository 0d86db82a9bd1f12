"""What full fine-tuning leaves as it is: ticks always, the audio tower and its projector where they know enough."""

import torch


def freeze_time_embeddings(model):
    """Keep the tick rows of the input embeddings from changing in full fine-tuning; return the hook's handle.

    Their gradients are zeroed. Weight decay must spare the embeddings too, see [`SpareTicks`].
    """
    ids = torch.tensor(list(model.config.time_token_ids), dtype=torch.long)
    weight = model.get_input_embeddings().weight
    return weight.register_hook(lambda gradient: gradient.index_fill(0, ids.to(gradient.device), 0.0))


def freeze_audio(model):
    """Keep audio tower and projector from changing. A tower that does not learn gains nothing from dropout either."""
    model.model.audio_tower.requires_grad_(False)
    for module in model.model.audio_tower.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.model.multi_modal_projector.requires_grad_(False)


class SpareTicks:
    """Make a trainer spare the embeddings weight decay, which would move the frozen tick rows among them."""

    def get_decay_parameter_names(self, model):
        return [name for name in super().get_decay_parameter_names(model) if "embed_tokens" not in name]
