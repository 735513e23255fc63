"""Templates as data: what stands between roles and words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from openjanus.config import PAPER_ROLES, ProcessorConfig, TemplateName


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """What a template writes of its own; role names and tokens are the checkpoint's."""

    before_user: str
    """Between ``user_role:`` and the user's words."""
    after_user: str
    """Between these and the next role."""
    before_answer: str = " "
    """Between ``assistant_role:`` and an answer; an answer that is to come has none of it."""
    after_system: str = "\n\n"
    """Between the system prompt and the first role. The papers speak of no system prompt."""


TEMPLATES: Mapping[TemplateName, Template] = {
    "deepseek": Template(before_user=" ", after_user="\n\n"),
    "paper": Template(before_user="", after_user=" \n "),
}
"""``deepseek`` is the released models'. ``paper`` is the wording of Janus for stage III:
``User:<Input Message> \\n Assistant: <Response>``, again for each exchange. That an answer ends in
the end-of-sentence token is in both."""


def with_template(
    config: ProcessorConfig, name: TemplateName, *, role_tokens: tuple[str, str] | None = None
) -> ProcessorConfig:
    """A configuration with another template, and the role names that it has.

    Args:
        config: Of any template; one of this name is given back as it is.
        name: Of the template.
        role_tokens: Role names that a change to ``deepseek`` takes; None keeps those that are
            there, which Janus-1.3B has too.

    Raises:
        ValueError: Unknown name.
    """
    if config.template == name:
        return config
    roles = PAPER_ROLES if name == "paper" else role_tokens
    user, assistant = (config.user_role, config.assistant_role) if roles is None else roles
    return dataclasses.replace(config, template=name, user_role=user, assistant_role=assistant)
