"""Pack several answers to a prompt into one sequence: the prompt is computed once, forward and backward.

A row is `[prompt without its last token][last token, answer 1][last token, answer 2]...`; positions restart at the last
token of the prompt, and attention is blocked between answers (`branch_mask`). The last token is repeated because every
answer is predicted from it.
"""

from dataclasses import dataclass

import torch

from recipes.training.collator import branch_mask


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
