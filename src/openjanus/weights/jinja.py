"""Templates of dialogues in Jinja, which transformers keeps beside its weights."""

from __future__ import annotations

from openjanus.config import ProcessorConfig
from openjanus.processor.templates import TEMPLATES

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{%- set text = message['content'] -%}"
    "{%- else -%}"
    "{%- set said = namespace(parts=[]) -%}"
    "{%- for part in message['content'] -%}"
    "{%- set said.parts = said.parts + ['<IMAGE>' if part['type'] == 'image' else part['text']] -%}"
    "{%- endfor -%}"
    "{%- set text = said.parts | join('\\n') -%}"
    "{%- endif -%}"
    "{%- set text = text | trim -%}"
    "{%- if message['role'] | lower == 'system' -%}{{ text + '<AFTER_SYSTEM>' }}"
    "{%- elif message['role'] | lower == 'user' -%}"
    "{{ '<USER>:<BEFORE_USER>' + text + '<AFTER_USER>' }}"
    "{%- elif text -%}{{ '<ASSISTANT>:<BEFORE_ANSWER>' + text + '<EOS>' }}"
    "{%- else -%}{{ '<ASSISTANT>:' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<ASSISTANT>:' }}{%- endif -%}"
)
"""What ``processor.chat`` writes; names in capitals stand for those of a model and its template."""


def chat_template(names: ProcessorConfig) -> str:
    """A model's template in Jinja, with its role names and tokens."""
    template = TEMPLATES[names.template]
    between = {
        "<BEFORE_USER>": template.before_user,
        "<AFTER_USER>": template.after_user,
        "<BEFORE_ANSWER>": template.before_answer,
        "<AFTER_SYSTEM>": template.after_system,
    }
    own = {
        **{name: blanks.replace("\n", "\\n") for name, blanks in between.items()},
        "<IMAGE>": names.image_token,
        "<USER>": names.user_role,
        "<ASSISTANT>": names.assistant_role,
        "<EOS>": names.eos_token,
    }
    text = CHAT_TEMPLATE
    for name, value in own.items():
        text = text.replace(name, value)
    return text
