"""Greedy decoding from a draft: an earlier answer about the same audio is verified in one forward pass."""

import torch
from transformers import LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.generation import GenerateDecoderOnlyOutput

from .constrained_decoding import TOKEN_SETTINGS
from .prefix_cache import CACHE_NAME

# Generation settings under which decoding from a draft equals `generate`.
PLAIN_SETTINGS = {
    *TOKEN_SETTINGS, "suppress_tokens", "max_new_tokens", "use_cache", "return_dict_in_generate", "output_logits",
    "transformers_version",
}  # fmt: skip


def generate_answers(model, inputs, config, draft, eos, **kwargs):
    """Return the output of `model.generate(**inputs, generation_config=config, **kwargs)`, faster with a good draft."""
    names = {name for name, value in config.to_diff_dict().items() if value is not None and name[0] != "_"}
    if draft is None or CACHE_NAME not in inputs or names - PLAIN_SETTINGS or kwargs.keys() - {"logits_processor"}:
        return model.generate(**inputs, generation_config=config, **kwargs)
    return generate_from_draft(model, inputs, config, kwargs.get("logits_processor", []), draft, eos)


@torch.no_grad()
def generate_from_draft(model, inputs, config, processors, draft, eos):
    """Return what greedy `model.generate` returns for one row, `sequences (1, length)` and `logits`, in fewer passes.

    The rest of the draft goes through the model together with the last token, and the tokens that the model would have
    generated are accepted. After a mismatch the draft is tried again behind the mismatched token; if that fails too,
    decoding continues token by token until the model returns to where it left the draft.

    Args:
        inputs: of one row, from [`prefill_questions`], with a cache.
        config: greedy generation settings with `max_new_tokens`.
        processors: logits processors.
        draft: token ids of the expected answer, without end-of-sequence token.
        eos: ids that end an answer.
    """
    processors = LogitsProcessorList(processors)
    if config.suppress_tokens:
        processors.insert(0, SuppressTokensLogitsProcessor(config.suppress_tokens, device=model.device))
    cache, tokens, logits = inputs[CACHE_NAME], inputs["input_ids"], []
    end, draft = tokens.shape[1] + config.max_new_tokens, list(draft)
    # Where the draft continues, where the answer left it, and whether a token replaced one of the draft's.
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
        # The last token has not been through the model yet.
        if wrong := cache.get_seq_length() - tokens.shape[1] + 1:
            cache.crop(-wrong)
        if not is_astray and (num_right or not is_replaced):
            left = place + num_right
            place, is_replaced, is_astray = left + 1, True, left == len(draft)
        else:
            # The answer has something that the draft lacks; the draft may continue after it.
            is_astray = draft[left : left + 1] != [token]
            place, is_replaced = left + 1, False


__all__ = ["generate_answers", "generate_from_draft"]
