"""Mark the assistant's answers in a backbone's chat template, for losses on answers alone."""

import re

from transformers.utils.chat_template_utils import render_jinja_template

# ChatML, as every backbone so far writes it: the head of a turn, inside the loop over turns.
TURN_HEAD = re.compile(r"<\|im_start\|>\{\{-?\s*(?P<turn>\w+)\['role'\]\s*-?\}\}(?:\n|\\n)")
BLOCK = re.compile(r"\{%-?\s*(for|endfor)\b")
ANSWER = (
    "{% if TURN['role'] == 'assistant' %}{% generation %}"
    "{% if TURN['content'] is string %}{{ TURN['content'] }}"
    "{% else %}{% for part in TURN['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>{% endgeneration %}{{ '\\n' }}{% else %}"
)
QUESTION = {"role": "user", "content": [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "When?"}]}
ANSWERS = (
    {"role": "assistant", "content": "1.24-3.40"},
    {"role": "assistant", "content": [{"type": "text", "text": "none"}]},
)
CONVERSATIONS = (
    [QUESTION],
    [QUESTION, ANSWERS[0], {"role": "user", "content": "And now?"}, ANSWERS[1], QUESTION],
    [{"role": "system", "content": "Listen."}, QUESTION, ANSWERS[0]],
)


def mark_answers(template):
    """Return a chat template that renders the same text and has `{% generation %}` marks around answers.

    Raises:
        ValueError: the template is not ChatML (`<|im_start|>role`, `<|im_end|>`), or would render another text.
    """
    if re.search(r"\{%-?\s*generation\b", template):
        return template
    head = TURN_HEAD.search(template)
    end = _end_of_loop(template, head.end()) if head else None
    if end is None:
        raise ValueError(
            "chat_template has no {% generation %} marks and no turns of the form <|im_start|>{{ message['role'] }}; "
            "add the marks around the assistant's answers to the backbone's chat_template.jinja."
        )
    answer = ANSWER.replace("TURN", head["turn"])
    marked = template[: head.end()] + answer + template[head.end() : end] + "{% endif %}" + template[end:]
    if _render(marked) != _render(template):
        raise ValueError(
            "chat_template cannot be marked without changing what it renders; add {% generation %} marks around the "
            "assistant's answers to the backbone's chat_template.jinja."
        )
    return marked


def _end_of_loop(template, start):
    """Return the position of the `endfor` of the loop that is open at `start`."""
    depth = 1
    for block in BLOCK.finditer(template, start):
        depth += 1 if block[1] == "for" else -1
        if not depth:
            return block.start()
    return None


def _render(template):
    return [
        render_jinja_template([list(turns)], chat_template=template, add_generation_prompt=prompt)[0]
        for turns in CONVERSATIONS
        for prompt in (False, True)
    ]
