"""Sample several answers to a prompt in parallel, with one shared copy of the prompt's keys and values.

`generate` repeats the cache for every answer, and copies it at every step. Here each step puts the next token of every
answer to a prompt into one row, at its own position; attention is blocked between answers, as in `packing.py`. Finished
answers leave the row.
"""

import itertools

import torch

from modeling_timepro.modeling_timepro import CACHE_NAME
from recipes.training.collator import mask_for


def sample_packed(
    model, input_ids, logits_processor, stopping_criteria, generation_config, *, cache, prompt_mask, observe, **unused
):  # fmt: skip
    """Decoding loop for `model.generate(..., custom_generate=...)`, with the same random draws as the stock one.

    Args:
        input_ids: `(num_rows, length)`, prompts padded on the left, rows of one prompt adjacent.
        cache: keys and values of all but the last token of each prompt `(num_prompts, ...)`.
        prompt_mask: `(num_prompts, length)`.
        observe: called with the model's logits `(num_rows, vocab_size)` at each step, or `None`.
    """
    num_prompts = len(prompt_mask)
    rows = torch.arange(len(input_ids), device=input_ids.device).view(num_prompts, -1)
    starts, prompt_mask = prompt_mask.sum(1, keepdim=True) - 1, prompt_mask[:, None, :-1].bool()
    # The answer that each token in the cache belongs to, by prompt.
    owners = rows[:, :0]
    unfinished = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
    for step in itertools.count():
        goes_on = unfinished.view_as(rows)
        # If prompts have different numbers of unfinished answers, finished ones fill the row, masked.
        order = goes_on.int().argsort(dim=1, descending=True, stable=True)[:, : goes_on.sum(1).max()]
        index = rows.gather(1, order)
        owners = torch.cat([owners, index.where(goes_on.gather(1, order), -1)], 1)
        own = owners[:, None] == index[:, :, None]
        mask = torch.cat([prompt_mask.expand(-1, index.shape[1], -1), own], 2)[:, None]
        logits = model(
            input_ids=input_ids[index, -1],
            attention_mask=mask_for(model.config._attn_implementation, mask, model.dtype),
            position_ids=(starts + step).expand_as(index),
            use_cache=True,
            **{CACHE_NAME: cache},
        ).logits
        scores = logits.new_zeros(len(input_ids), logits.shape[-1], dtype=torch.float32)
        scores[index.flatten()] = logits.flatten(0, 1).float()
        if observe:
            observe(scores)
        scores = logits_processor(input_ids, scores)
        if generation_config.do_sample:
            tokens = torch.multinomial(scores.softmax(-1), 1)[:, 0]
        else:
            tokens = scores.argmax(-1)
        tokens = tokens.where(unfinished, generation_config.pad_token_id)
        input_ids = torch.cat([input_ids, tokens[:, None]], 1)
        unfinished = unfinished & ~stopping_criteria(input_ids, None)
        if not unfinished.any():
            return input_ids
