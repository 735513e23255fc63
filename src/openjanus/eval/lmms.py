"""The model as a plug-in of lmms-eval, through its group of entry points ``lmms_eval.models``.

lmms-eval is imported when it asks for the manifest or the class, and never otherwise: it lives in
an environment of its own, in which openjanus is installed beside it.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from openjanus.engine.request import check_sampling
from openjanus.pipeline import Janus
from openjanus.pipeline.load import load

MODEL_ID: Final = "openjanus"
CLASS_NAME: Final = "OpenJanus"
MAX_NEW_TOKENS: Final = 512
"""Of an answer, where a task does not say."""

KNOWN: Final = frozenset(
    {"max_new_tokens", "temperature", "top_p", "do_sample", "num_beams", "until"}
)
"""What tasks may ask for of decoding."""


def manifest() -> Any:
    """What the entry point gives: where lmms-eval finds the class."""
    registry = importlib.import_module("lmms_eval.models.registry_v2")
    return registry.ModelManifest(model_id=MODEL_ID, chat_class_path=f"{__name__}.{CLASS_NAME}")


def __getattr__(name: str) -> Any:
    if name == CLASS_NAME:
        return _model_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _model_class() -> type:
    base = importlib.import_module("lmms_eval.api.model").lmms
    return type(CLASS_NAME, (Answerer, base), {"is_simple": False, "__module__": __name__})


class Answerer:
    """What lmms-eval asks of a model of chats.

    Args:
        pretrained: Preset, folder or hub id.
        batch_size: Questions at once; never changes an answer.
        device: Where the model runs.
        dtype: Of the weights.
        system: System prompt; None is the model's own.

    Raises:
        ValueError: A batch size that is no whole number above 0.
    """

    task_dict: Mapping[str, Any]

    def __init__(
        self,
        pretrained: str = "nano",
        batch_size: int | str = 1,
        device: str = "auto",
        dtype: str = "auto",
        system: str | None = None,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size must be a whole number above 0, got {batch_size!r}")
        self.batch_size = int(batch_size)
        self.system = system
        self.janus: Janus = load(pretrained, device=device, dtype=dtype)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers, in the order of the requests.

        Raises:
            ValueError: An option of decoding that there is not, or sound or moving pictures.
        """
        answers: list[str] = [""] * len(requests)
        for options, places in self._batches(requests):
            conversations = [self._messages(requests[place].args) for place in places]
            for place, text in zip(places, self._replies(conversations, options), strict=True):
                answers[place] = text
        return answers

    def _replies(
        self, conversations: Sequence[list[dict[str, Any]]], options: Mapping[str, Any]
    ) -> list[str]:
        """Replies; "" with a warning for what is past the context."""
        try:
            replies = self.janus.chat_batch(conversations, system=self.system, seed=0, **options)
        except ValueError as error:  # nothing was answered
            if len(conversations) > 1:
                return [text for one in conversations for text in self._replies([one], options)]
            warnings.warn(f"a question is answered with nothing: {error}", stacklevel=2)
            return [""]
        return [reply.text for reply in replies]

    def _batches(self, requests: Sequence[Any]) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """Places of requests with the same options, so many at once."""
        groups: dict[str, tuple[dict[str, Any], list[int]]] = {}
        for place, request in enumerate(requests):
            options = decoding_options(request.args[2])
            groups.setdefault(repr(sorted(options.items())), (options, []))[1].append(place)
        for options, places in groups.values():
            for start in range(0, len(places), self.batch_size):
                yield options, places[start : start + self.batch_size]

    def _messages(self, arguments: Sequence[Any]) -> list[dict[str, Any]]:
        _, to_messages, _, document, task, split = arguments
        return [_message(one) for one in to_messages(self.task_dict[task][split][document])]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refused.

        Raises:
            ValueError: Always.
        """
        raise ValueError("openjanus answers tasks of one round: choose a task of generate_until")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refused: `openjanus eval --task seed --rule ranked` ranks choices.

        Raises:
            ValueError: Always.
        """
        raise ValueError("openjanus does not rank for lmms-eval: choose a task of generate_until")


def decoding_options(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `chat_batch` from a task's `generation_kwargs`.

    Raises:
        ValueError: Beams, an option that there is not, or one against its rule.
    """
    unknown = sorted(set(asked) - KNOWN)
    if unknown:
        raise ValueError(f"generation_kwargs may have {', '.join(sorted(KNOWN))}, got {unknown}")
    if asked.get("num_beams") not in (None, 1):
        raise ValueError(f"there is no beam search, got num_beams {asked['num_beams']}: take 1")
    temperature = asked.get("temperature")
    # Without do_sample the field's models take the likeliest token, whatever the temperature.
    if not asked.get("do_sample", temperature not in (None, 0)):
        temperature = 0.0
    elif temperature is None:
        temperature = 1.0
    tokens = asked.get("max_new_tokens")
    until = asked.get("until")
    stop = () if until is None else (until,) if isinstance(until, str) else tuple(until)
    tokens = MAX_NEW_TOKENS if tokens is None else int(tokens)
    top_p = asked.get("top_p") if temperature else None
    # What is wrong for every question must not pass for a question that cannot be asked.
    check_sampling(temperature=float(temperature), top_p=top_p, seed=0)
    if tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {tokens}")
    return {
        "max_new_tokens": tokens,
        "temperature": float(temperature),
        "top_p": top_p,
        "stop": stop,
    }


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of lmms-eval, whose pictures are called `url` whatever they are, as one of ours."""
    if isinstance(message["content"], str):
        return dict(message)
    parts: list[dict[str, Any]] = []
    for part in message["content"]:
        if part["type"] == "text":
            parts.append({"type": "text", "text": part["text"]})
        elif part["type"] == "image":
            parts.append({"type": "image", "image": part["url"]})
        else:
            raise ValueError(f"openjanus sees text and images, got {part['type']}")
    return {"role": message["role"], "content": parts}
