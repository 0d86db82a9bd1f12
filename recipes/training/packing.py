"""Pack several answers to a prompt into one sequence: the prompt is computed once, in training and in sampling.

A row is `[prompt without its last token][last token, answer 1][last token, answer 2]...`; positions restart at the last
token of the prompt, and attention is blocked between answers (`branch_mask`). The last token is repeated because every
answer is predicted from it.
"""

import itertools
from dataclasses import dataclass

import torch

from modeling_timepro.modeling_timepro import CACHE_NAME
from recipes.training.collator import branch_mask, mask_for


@dataclass
class PackedAnswers:
    """Model inputs of packed rows, and the positions of each answer's tokens.

    Attributes:
        inputs: `input_ids`, `position_ids` `(num_prompts, length)`, bool `attention_mask` `(num_prompts, 1, length,
            length)`, and `shift_labels` `(num_prompts, length)`, the answer token that each position predicts.
        places: `(row, start, length)` of each answer, in the given order.
    """

    inputs: dict[str, torch.Tensor]
    places: list[tuple[int, int, int]]

    def unpack(self, values, width):
        """Convert values per position `(num_prompts, length)` to values per answer `(num_answers, width)`, 0-padded."""
        answers = [values[row, start : start + length] for row, start, length in self.places]
        return torch.stack([torch.nn.functional.pad(answer, (0, width - len(answer))) for answer in answers])


def pack_answers(prompts, answers, owners, pad_token_id) -> PackedAnswers:
    """Pack answers behind their prompts.

    Args:
        prompts: one tensor of token ids `(prompt_length,)` per prompt.
        answers: one tensor `(answer_length,)` per answer, without padding; may be empty.
        owners: index of each answer's prompt.
        pad_token_id: padding of shorter rows; it attends only to itself.
    """
    device = prompts[0].device
    rows, places = [], [None] * len(answers)
    for row, prompt in enumerate(prompts):
        start = prefix = len(prompt) - 1
        parts, positions, labels, sizes = [prompt[:-1]], [torch.arange(prefix)], [torch.full((prefix,), -100)], []
        for index in (i for i, owner in enumerate(owners) if owner == row):
            answer = answers[index]
            places[index] = (row, start, len(answer))
            if not len(answer):
                continue
            # The last token of an answer predicts nothing, so it is omitted.
            parts += [prompt[-1:], answer[:-1]]
            positions.append(prefix + torch.arange(len(answer)))
            labels.append(answer.cpu())
            sizes.append(len(answer))
            start += len(answer)
        rows.append((torch.cat(parts), torch.cat(positions), torch.cat(labels), prefix, sizes))
    length = max(1, *(len(ids) for ids, *_ in rows))
    filled = [torch.full((len(rows), length), filler) for filler in (pad_token_id, 0, -100)]
    for row, columns in enumerate(rows):
        for table, values in zip(filled, columns[:3], strict=True):
            table[row, : len(values)] = values
    mask = torch.stack([branch_mask(prefix, sizes, length) for *_, prefix, sizes in rows])[:, None]
    names = ("input_ids", "position_ids", "shift_labels")
    inputs = {name: table.to(device) for name, table in zip(names, filled, strict=True)}
    return PackedAnswers(inputs | {"attention_mask": mask.to(device)}, places)


def sample_packed(
    model, input_ids, logits_processor, stopping_criteria, generation_config, *, cache, prompt_mask, observe, **unused
):  # fmt: skip
    """Decoding loop for `model.generate(..., custom_generate=...)`, with the same random draws as the stock one.

    `generate` repeats the cache for every answer, and copies it at every step. Here each step puts the next token of
    every answer to a prompt into one row, at its own position; finished answers leave the row.

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
