"""Requests made from the OpenAPI document, right and wrong: each has an answer that it declares."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.mark.long
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_request_has_an_answer_that_is_declared(server, mode):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    asked: set[str] = set()
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing there can be wrong

        @settings(
            max_examples=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            asked.add(case.operation.label)
            case.call_and_validate(checks=CHECKS)

        check()
    assert {"POST /v1/chat/completions", "POST /v1/images/generations"} <= asked
