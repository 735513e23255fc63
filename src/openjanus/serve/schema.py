"""Bodies of requests and answers, in OpenAI's shapes."""

from __future__ import annotations

import reprlib
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import core_schema

from openjanus.engine.noise import MAX_SEED
from openjanus.rules import require

MAX_N = 10
MAX_KEYS = 64
"""Of one object, known and unknown: each unknown one is an error of its own."""
MAX_PARTS = 256
"""Of one message."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


class Neutral:
    """Marks a parameter that we lack: values that ask for nothing are taken, others are refused.

    Args:
        values: What asks for nothing, beside null.
    """

    def __init__(self, *values: Any) -> None:
        self._values = [*values, None]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"enum": self._values}

    def _check(self, value: Any) -> Any:
        # In Python 0 is False too.
        if any(
            value == one and isinstance(value, bool) == isinstance(one, bool)
            for one in self._values
        ):
            return value
        raise ValueError(
            f"{_SHORT.repr(value)} would change the result, which this server cannot do: "
            f"give {self._values[0]!r} or leave it out"
        )


Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
LARGEST = 1e6
"""Of numbers that the engine multiplies by, in fp32."""
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
StopString = Annotated[str, Field(min_length=1, max_length=1000)]
StopStrings = Annotated[list[StopString], Field(max_length=16, fail_fast=True)]
ModelName = Annotated[str, Field(max_length=256)]


class Body(BaseModel):
    """What clients send: nothing unknown, and no guessing at types."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _has_few_keys(cls, data: Any) -> Any:
        require(
            not isinstance(data, dict) or len(data) <= MAX_KEYS,
            f"more than {MAX_KEYS} parameters: none has so many",
        )
        return data


class ImageUrl(Body):
    """Where a picture is."""

    url: str
    """``data:image/png;base64,...``, or http(s) where the server fetches."""
    detail: Literal["auto", "low", "high", "original"] | None = None
    """Read and without effect: the encoder has a single resolution."""


class TextPart(Body):
    """Words of a message."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: Any = None
    """Read and without effect, as what else concerns OpenAI's cache."""


class ImagePart(Body):
    """A picture of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl
    prompt_cache_breakpoint: Any = None


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Body):
    """A turn. What an earlier answer of this server held may be sent back whole."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    name: Any = None
    refusal: Annotated[Any, Neutral()] = None
    audio: Annotated[Any, Neutral()] = None
    annotations: Any = None
    function_call: Annotated[Any, Neutral()] = None
    tool_calls: Annotated[Any, Neutral([])] = None


class StreamOptions(Body):
    """Of a streamed answer."""

    include_usage: bool | None = None
    include_obfuscation: Any = None


class ChatBody(Body):
    """A request for a reply."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000, fail_fast=True)]
    model: ModelName | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    """Reply i is the one of seed + i."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """512 when left out, as in the library; cut to what the context leaves."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The older name of it."""
    temperature: Temperature | None = None
    """0, greedy, when left out, as in the library."""
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    """0 keeps the likeliest alone."""
    stop: Annotated[str, Field(max_length=1000)] | StopStrings | None = None
    """None when empty."""
    seed: Seed | None = None
    """One of the system's when left out; the answer tells it."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    # What changes nothing here.
    user: Any = None
    store: Any = None
    metadata: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    parallel_tool_calls: Any = None
    # What would change the result, and here cannot.
    frequency_penalty: Annotated[Any, Neutral(0)] = None
    presence_penalty: Annotated[Any, Neutral(0)] = None
    logit_bias: Annotated[Any, Neutral({})] = None
    tools: Annotated[Any, Neutral([])] = None
    functions: Annotated[Any, Neutral([])] = None
    tool_choice: Annotated[Any, Neutral("none", "auto")] = None
    function_call: Annotated[Any, Neutral("none", "auto")] = None
    response_format: Annotated[Any, Neutral({"type": "text"})] = None
    modalities: Annotated[Any, Neutral(["text"])] = None
    service_tier: Annotated[Any, Neutral("auto", "default")] = None
    reasoning_effort: Annotated[Any, Neutral("none")] = None
    verbosity: Annotated[Any, Neutral("medium")] = None
    audio: Annotated[Any, Neutral()] = None
    moderation: Annotated[Any, Neutral()] = None
    prediction: Annotated[Any, Neutral()] = None
    web_search_options: Annotated[Any, Neutral()] = None


class ImagesBody(Body):
    """A request for pictures."""

    prompt: Annotated[str, Field(min_length=1)]
    model: ModelName | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    size: Annotated[str, Field(max_length=32)] | None = None
    """``auto``, or the one size that the model draws."""
    response_format: Literal["b64_json", "url"] | None = None
    """``b64_json`` when left out. Addresses end after a while."""
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0)] | None = None
    """Up to 3 as at OpenAI, or beyond that one fewer than a picture has rows of ids."""
    seed: Seed | None = None
    """One of the system's when left out; the answer tells it."""
    guidance_scale: Number | None = None
    """1 is none; the model's own when left out."""
    negative_prompt: str | None = None
    temperature: Temperature | None = None
    """The model's own when left out; 0 is greedy."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    top_p: TopP | None = None

    # What changes nothing here.
    user: Any = None
    safety_identifier: Any = None
    moderation: Literal["auto", "low"] | None = None
    # What would change the result, and here cannot.
    background: Annotated[Any, Neutral("auto", "opaque")] = None
    quality: Annotated[Any, Neutral("auto", "standard")] = None
    style: Annotated[Any, Neutral()] = None
    output_format: Annotated[Any, Neutral("png")] = None
    output_compression: Annotated[Any, Neutral(100)] = None
    frame_count: Annotated[Any, Neutral(1)] = None
    frame_duration_ms: Annotated[Any, Neutral()] = None
    complexity: Annotated[Any, Neutral()] = None
    svg: Annotated[Any, Neutral()] = None


class ErrorDetail(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """OpenAI's envelope of errors."""

    error: ErrorDetail


class TokenLogprob(BaseModel):
    """A likely token."""

    token: str
    logprob: float
    bytes: list[int] | None
    """Of a part of a character too: joined they are the text."""


class SampledLogprob(TokenLogprob):
    """A sampled token, and those that were likely in its place."""

    top_logprobs: list[TokenLogprob]


class Logprobs(BaseModel):
    """Of a reply, or of a piece of it; at temperature 1 and before ``top_p``."""

    content: list[SampledLogprob]
    refusal: None = None


class ReplyMessage(BaseModel):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """A reply."""

    index: int
    message: ReplyMessage
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"]


class ChatUsage(BaseModel):
    """Tokens of a request, image slots included, and of its replies together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(BaseModel):
    """All replies."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage
    seed: int
    """Of reply 0."""


class Delta(BaseModel):
    """What has come to a reply."""

    role: Literal["assistant"] | None = None
    content: str | None = None

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


class ChunkChoice(BaseModel):
    """A piece of a reply."""

    index: int
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(BaseModel):
    """An event of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | None = None
    seed: int


class InputDetails(BaseModel):
    """What a prompt is made of."""

    text_tokens: int
    image_tokens: int = 0


class OutputDetails(BaseModel):
    """What an answer is made of: pictures alone."""

    image_tokens: int
    text_tokens: int = 0


class ImagesUsage(BaseModel):
    """Tokens of a prompt, and ids of its pictures."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Picture(BaseModel):
    """A picture: as base64 of a PNG, or where it can be had for a while."""

    b64_json: str | None = None
    url: str | None = None


class _Drawn(BaseModel):
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png"] = "png"
    size: str
    seed: int


class ImagesAnswer(_Drawn):
    """All pictures of a prompt."""

    created: int
    data: list[Picture]
    usage: ImagesUsage


class _DrawnEvent(_Drawn):
    quality: Literal["auto"] = "auto"
    """Events may say so; a whole answer may not."""


class PartialImage(_DrawnEvent):
    """An event: a picture on its way, whole rows from the top and grey below."""

    type: Literal["image_generation.partial_image"] = "image_generation.partial_image"
    b64_json: str
    created_at: int
    partial_image_index: int
    image_index: int
    """Which of the n pictures."""


class CompletedImage(_DrawnEvent):
    """An event: a finished picture."""

    type: Literal["image_generation.completed"] = "image_generation.completed"
    b64_json: str
    created_at: int
    image_index: int
    usage: ImagesUsage


class DrawingFacts(BaseModel):
    """How a model draws; beyond OpenAI."""

    size: str
    max_partial_images: int
    guidance_scale: float
    """Where a request says none; and so the temperature."""
    temperature: float
    max_n: int = MAX_N


class ModelCard(BaseModel):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "openjanus"
    drawing: DrawingFacts


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Status(BaseModel):
    """How the server is."""

    status: str
