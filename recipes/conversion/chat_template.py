"""Adapt a backbone's chat template: mark answers for completion-only losses, and escape other roles' text."""

import re

from transformers.utils.chat_template_utils import render_jinja_template

from processing.answer_text import escape_text
from processing.processing_timepro import ANSWER_TEMPLATE, ESCAPE

# ChatML, as all supported backbones write it: the head of a turn, inside the loop over turns.
TURN_HEAD = re.compile(r"<\|im_start\|>\{\{-?\s*(?P<turn>\w+)\['role'\]\s*-?\}\}(?:\n|\\n)")
BLOCK = re.compile(r"\{%-?\s*(for|endfor)\b")
# Expressions that may print the text of a question.
PRINTED = re.compile(r"\{\{(-?)\s*(\w+\[['\"](?:content|text)['\"]\]|\w+\.(?:content|text|value))\s*(-?)\}\}")
GENERATION = re.compile(r"\{%-?\s*generation\b.*?\bendgeneration\b", re.DOTALL)
TICK = "A <1.04> or <|AUDIO|>?"
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


def escape_questions(template):
    """Return a chat template that escapes the text of questions wherever it prints them unchanged.

    Servers render the template without the processor, so that a question could otherwise spell ticks.
    """
    answers = [match.span() for match in GENERATION.finditer(template)]
    for match in reversed(list(PRINTED.finditer(template))):
        start, end = match.span()
        if any(first < start < last for first, last in answers):
            continue
        escaped = f"{template[:start]}{{{{{match[1]} {match[2]} | {ESCAPE} {match[3]}}}}}{template[end:]}"
        if _render(escaped) == _render(template) and _questions(escaped) != _questions(template):
            template = escaped
    return template


def is_escaped(template) -> bool:
    """Return whether a template escapes questions that spell special tokens, in both forms of a message."""
    return all(escape_text(TICK) in text for text in _questions(template))


def _questions(template):
    conversations = [[{"role": "user", "content": content}] for content in (TICK, [{"type": "text", "text": TICK}])]
    return render_jinja_template(conversations, chat_template=template)[0]


def mark_answers(template):
    """Return a chat template that renders the same text and has `{% generation %}` marks around answers.

    Raises:
        ValueError: the template is not ChatML (`<|im_start|>role`, `<|im_end|>`), or would render different text.
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
    answer = f"{{% if message['role'] == 'assistant' %}}{ANSWER_TEMPLATE}{{% else %}}".replace("message", head["turn"])
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
