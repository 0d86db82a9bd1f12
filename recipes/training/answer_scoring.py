"""Log-probabilities of answers given the audio, with the answers of a prompt packed into one sequence or separate."""

import torch

from recipes.training.collator import mask_for
from recipes.training.packing import pack_answers


def score_answers(
    model, input_ids, attention_mask, width, clips, banned, base_model, shared_prefix, temperature, pad_token_id
):  # fmt: skip
    """Return log-probabilities and entropies of the answers `(num_rows, width)`, 0 for padding.

    Entropies are `None` for the reference model, whose head does not compute them.

    Args:
        model: the model with TRL's fused head, possibly wrapped.
        input_ids, attention_mask: `(num_rows, length)`, prompts padded on the left and answers on the right.
        width: number of columns of the answers.
        clips: model arguments with the audio of each row; rows of one prompt share the same object.
        banned: `None`, or for each row masks `(num_masks, vocab_size)` and the index of each token's mask
            `(answer_length,)`; probabilities are then normalised over the other tokens.
        base_model: the model without wrappers and adapters.
        shared_prefix: compute each prompt once for all its answers, see `packing.py`.
    """
    prompt_width, kept = input_ids.shape[1] - width, attention_mask.bool()
    prompts, answers = (
        [ids[part][mask[part]] for ids, mask in zip(input_ids, kept, strict=True)]
        for part in (slice(prompt_width), slice(prompt_width, None))
    )
    if shared_prefix:
        # Equal prompts about different clips are different prompts.
        keys = [(id(clip), tuple(prompt.tolist())) for clip, prompt in zip(clips, prompts, strict=True)]
        positions = {}
        owners = [positions.setdefault(key, len(positions)) for key in keys]
        firsts = [owners.index(position) for position in positions.values()]
        packed = pack_answers([prompts[row] for row in firsts], answers, owners, pad_token_id)
        inputs, places, clips = packed.inputs, packed.places, [clips[row] for row in firsts]
        mask = inputs["attention_mask"]
        inputs["attention_mask"] = mask_for(base_model.config._attn_implementation, mask, base_model.dtype)
    else:
        labels = input_ids.masked_fill(~kept, -100)
        labels[:, :prompt_width] = -100
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        places = [(row, prompt_width - 1, len(answer)) for row, answer in enumerate(answers)]
    if not banned:
        outputs = model(**inputs, fused_lm_head=True, **joined(clips))
        values = outputs.log_probs, outputs.entropy
        if shared_prefix:
            return tuple(part if part is None else packed.unpack(part, width) for part in values)
        return tuple(part if part is None else part[:, -width:] for part in values)
    # The fused head does not support masks. Prompts need no logits.
    inputs = {name: value for name, value in inputs.items() if not name.endswith("labels")}
    first = min(start for _, start, _ in places)
    num_kept = inputs["input_ids"].shape[1] - first
    logits = model(**inputs, use_cache=False, logits_to_keep=num_kept, **joined(clips)).logits
    values = []
    for answer, (row, start, length), (masks, steps) in zip(answers, places, banned, strict=True):
        mask = masks.to(logits.device)[steps[:length].to(logits.device)]
        scored = processed_log_probs(logits[row, start - first : start - first + length], answer, mask, temperature)
        values.append([torch.nn.functional.pad(part, (0, width - length)) for part in scored])
    return tuple(torch.stack(parts) for parts in zip(*values, strict=True))


def processed_log_probs(logits, answer, banned, temperature):
    """Return log-probabilities of an answer, normalised over the allowed tokens, and entropies, both `(length,)`.

    Args:
        logits: `(length, vocab_size)`, at the position before each token.
        answer: ids `(length,)`; none of them is banned.
        banned: bool `(length, vocab_size)`.
    """
    log_probs = (logits.float() / temperature).masked_fill(banned, -torch.inf).log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs.masked_fill(banned, 0.0)).sum(-1)
    return log_probs.gather(-1, answer[:, None])[:, 0], entropy


def joined(clips):
    """Return the clips of several prompts as model arguments, with features padded to the longest."""
    names = {name for clip in clips for name in clip}
    arguments = {}
    for name in names:
        parts = [clip[name] for clip in clips if name in clip]
        if name != "audio_embeds":
            longest = max(part.shape[-1] for part in parts)
            parts = [torch.nn.functional.pad(part, (0, longest - part.shape[-1])) for part in parts]
        arguments[name] = torch.cat(parts)
    return arguments
