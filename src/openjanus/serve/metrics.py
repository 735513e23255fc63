"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Counters of one server, in a registry of their own."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.running = Gauge(
            "openjanus_running", "Replies and pictures that have a slot", registry=registry
        )
        self.waiting = Gauge(
            "openjanus_waiting", "Replies and pictures that wait for a slot", registry=registry
        )
        self.inside = Gauge(
            "openjanus_requests_inside", "Places taken: n of a request of n", registry=registry
        )
        self.requests = Counter(
            "openjanus_requests",
            "Answers by path and status (499: the client left)",
            ["path", "status"],
            registry=registry,
        )
        self.errors = Counter(
            "openjanus_errors",
            "Answers that are errors, or end in one, by path and code",
            ["path", "code"],
            registry=registry,
        )
        self.seconds = Histogram(
            "openjanus_request_seconds",
            "From receipt to the end of the answer",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.first_token = Histogram(
            "openjanus_time_to_first_token_seconds",
            "From receipt to the first sampled id",
            ["kind"],
            buckets=SECONDS,
            registry=registry,
        )
        self.step = Histogram(
            "openjanus_step_seconds", "Of the engine", buckets=STEP_SECONDS, registry=registry
        )
        self.ids = Counter(
            "openjanus_ids", "Sampled ids, of words and of pictures", ["kind"], registry=registry
        )
        self.failed_steps = Counter(
            "openjanus_failed_steps", "Steps of the engine that raised", registry=registry
        )

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)
