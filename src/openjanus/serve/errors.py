"""What a client did wrong, or the server could not do, in OpenAI's envelope."""

from __future__ import annotations

from typing import Any

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class ApiError(Exception):
    """A request that is refused or has failed.

    Args:
        status: Of HTTP, 4xx or 5xx.
        message: The rule, the value, the fix.
        code: A word for programs.
        param: The parameter that is wrong.
        retry_after_s: When to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def kind(self) -> str:
        """OpenAI's ``type``."""
        kinds = {
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            429: "rate_limit_error",
        }
        return kinds.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        headers = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers

    def envelope(self) -> dict[str, Any]:
        """The body of the answer."""
        # A client's lone surrogates cannot be written as UTF-8.
        message = self.message.encode("utf-8", "replace").decode()
        param = None if self.param is None else self.param.encode("utf-8", "replace").decode()
        return {"error": {"message": message, "type": self.kind, "param": param, "code": self.code}}


def refused(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that the client must change."""
    return ApiError(400, message, param=param, code=code)


def stopping() -> ApiError:
    """A request that comes, or still runs, when the server ends."""
    return ApiError(503, "the server is stopping: try again", code="stopping", retry_after_s=5)


def failed(error: Exception) -> ApiError:
    """A request that failed on our side: told without what only an operator should read."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
        return ApiError(
            503,
            "the server has not enough memory for this request: ask for less, or try again later",
            code="out_of_memory",
            retry_after_s=5,
        )
    return ApiError(
        500, "the server failed on this request; its log has the reason", code="internal_error"
    )
