"""Greedy answers that go on from a draft: what an earlier answer about the same sound said is checked in one pass."""

import torch
from transformers import LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.generation import GenerateDecoderOnlyOutput

from .prefix_cache import CACHE_NAME

# Passes that check a draft, before the rest of the answer is written token by token.
MAX_PASSES = 4


@torch.no_grad()
def generate_from_draft(model, inputs, config, processors, draft, eos, is_time):
    """Return what greedy `model.generate` does for one row, `sequences (1, length)` and `logits`, in fewer passes.

    All tokens of the draft are put through the model at once; those count that the model would have written. Where it
    writes another time, the rest of the draft is checked again after it.

    Args:
        inputs: of one row, from [`prefill_questions`], with a cache.
        config: generation settings, greedy, with `max_new_tokens`.
        processors: logits processors.
        draft: token ids of the answer that is expected, without its end.
        eos: ids that end an answer.
        is_time: whether a token id is a time.
    """
    all_processors = LogitsProcessorList(processors)
    if config.suppress_tokens:
        all_processors.insert(0, SuppressTokensLogitsProcessor(config.suppress_tokens, device=model.device))
    cache, tokens, logits = inputs[CACHE_NAME], inputs["input_ids"], []
    end, draft = tokens.shape[1] + config.max_new_tokens, list(draft)
    for _ in range(MAX_PASSES):
        num_cached = cache.get_seq_length()
        rest = torch.cat([tokens[:, num_cached:], tokens.new_tensor([draft])], 1)
        outputs = model(
            input_ids=rest,
            attention_mask=tokens.new_ones(1, num_cached + rest.shape[1]),
            position_ids=torch.arange(num_cached, num_cached + rest.shape[1], device=tokens.device)[None],
            use_cache=True,
            logits_to_keep=len(draft) + 1,
            **{CACHE_NAME: cache},
        )
        for place, row in enumerate(outputs.logits[0]):
            token = int(all_processors(tokens, row[None].float()).argmax())
            tokens, expected = torch.cat([tokens, tokens.new_tensor([[token]])], 1), draft[place : place + 1]
            logits.append(row[None])
            if token in eos or tokens.shape[1] == end:
                return GenerateDecoderOnlyOutput(sequences=tokens, logits=tuple(logits))
            if expected != [token]:
                break
        # Of the last token nothing was computed yet.
        if wrong := cache.get_seq_length() - tokens.shape[1] + 1:
            cache.crop(-wrong)
        draft = draft[place + 1 :]
        if not expected or not draft or not (is_time(token) and is_time(expected[0])):
            break
    config.max_new_tokens = end - tokens.shape[1]
    outputs = model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        generation_config=config,
        logits_processor=processors,
        **{CACHE_NAME: cache},
    )
    return GenerateDecoderOnlyOutput(sequences=outputs.sequences, logits=(*logits, *outputs.logits))


__all__ = ["generate_from_draft"]
