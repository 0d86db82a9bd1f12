"""Greedy answers that go on from a draft: what an earlier answer about the same sound said is checked in one pass."""

import torch
from transformers import LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.generation import GenerateDecoderOnlyOutput

from .constrained_decoding import TOKEN_SETTINGS
from .prefix_cache import CACHE_NAME

# Generation settings with which an answer from a draft is that of `generate`.
PLAIN_SETTINGS = {
    *TOKEN_SETTINGS, "suppress_tokens", "max_new_tokens", "use_cache", "return_dict_in_generate", "output_logits",
    "transformers_version",
}  # fmt: skip


def generate_answers(model, inputs, config, draft, eos, **kwargs):
    """Return the output of `model.generate(**inputs, generation_config=config, **kwargs)`, sooner with a good draft."""
    names = {name for name, value in config.to_diff_dict().items() if value is not None and name[0] != "_"}
    if draft is None or CACHE_NAME not in inputs or names - PLAIN_SETTINGS or kwargs.keys() - {"logits_processor"}:
        return model.generate(**inputs, generation_config=config, **kwargs)
    return generate_from_draft(model, inputs, config, kwargs.get("logits_processor", []), draft, eos)


@torch.no_grad()
def generate_from_draft(model, inputs, config, processors, draft, eos):
    """Return what greedy `model.generate` does for one row, `sequences (1, length)` and `logits`, in fewer passes.

    What is left of the draft is put through the model with the last token; those of its tokens count that the model
    would have written. Where it writes another token in place of one, the draft is tried again after that one; where
    this fails, what follows is written token by token until the model comes back to where it left the draft.

    Args:
        inputs: of one row, from [`prefill_questions`], with a cache.
        config: generation settings, greedy, with `max_new_tokens`.
        processors: logits processors.
        draft: token ids of the answer that is expected, without its end.
        eos: ids that end an answer.
    """
    processors = LogitsProcessorList(processors)
    if config.suppress_tokens:
        processors.insert(0, SuppressTokensLogitsProcessor(config.suppress_tokens, device=model.device))
    cache, tokens, logits = inputs[CACHE_NAME], inputs["input_ids"], []
    end, draft = tokens.shape[1] + config.max_new_tokens, list(draft)
    # Where the draft goes on and where it was left; whether a token was written in place of one of it.
    place, left, is_replaced, is_astray = 0, 0, False, False
    while True:
        guess = [] if is_astray else draft[place:]
        num_cached = cache.get_seq_length()
        fed = torch.cat([tokens[:, num_cached:], tokens.new_tensor([guess])], 1)
        outputs = model(
            input_ids=fed,
            attention_mask=tokens.new_ones(1, num_cached + fed.shape[1]),
            position_ids=torch.arange(num_cached, num_cached + fed.shape[1], device=tokens.device)[None],
            use_cache=True,
            logits_to_keep=len(guess) + 1,
            **{CACHE_NAME: cache},
        )
        for num_right, row in enumerate(outputs.logits[0]):
            token = int(processors(tokens, row[None].float()).argmax())
            tokens = torch.cat([tokens, tokens.new_tensor([[token]])], 1)
            logits.append(row[None])
            if token in eos or tokens.shape[1] == end:
                return GenerateDecoderOnlyOutput(sequences=tokens, logits=tuple(logits))
            if num_right == len(guess) or token != guess[num_right]:
                break
        # Of the last token nothing was computed yet.
        if wrong := cache.get_seq_length() - tokens.shape[1] + 1:
            cache.crop(-wrong)
        if not is_astray and (num_right or not is_replaced):
            left = place + num_right
            place, is_replaced, is_astray = left + 1, True, left == len(draft)
        else:
            # Something was written that the draft lacks: it may go on once that is over.
            is_astray = draft[left : left + 1] != [token]
            place, is_replaced = left + 1, False


__all__ = ["generate_answers", "generate_from_draft"]
