"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
LAST_STEPS = 256
"""Whose reading is told by the second."""
STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Counters of one server, in a registry of their own.

    Args:
        bandwidth: Bytes that the model's device reads in a second; None is not known.
    """

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, bandwidth: float | None = None) -> None:
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
        self._step = Histogram(
            "openjanus_step_seconds", "Of the engine", buckets=STEP_SECONDS, registry=registry
        )
        self._read = Counter(
            "openjanus_read_bytes", "Weights that decoding had to read", registry=registry
        )
        rate = Gauge(
            "openjanus_read_bytes_per_second",
            f"Of weights, in the last {LAST_STEPS} steps that decoded, with prompts that ran there",
            registry=registry,
        )
        rate.set_function(self._rate)
        self._steps: deque[tuple[float, int]] = deque(maxlen=LAST_STEPS)
        if bandwidth is not None:
            limit = Gauge(
                "openjanus_read_bandwidth_bytes_per_second",
                "What the device can read, measured at the start",
                registry=registry,
            )
            limit.set(bandwidth)
            share = Gauge(
                "openjanus_roofline_share",
                "openjanus_read_bytes_per_second by what the device can read",
                registry=registry,
            )
            share.set_function(lambda: self._rate() / bandwidth)
        self.ids = Counter(
            "openjanus_ids", "Sampled ids, of words and of pictures", ["kind"], registry=registry
        )
        self.failed_steps = Counter(
            "openjanus_failed_steps", "Steps of the engine that raised", registry=registry
        )

    def note_step(self, seconds: float, read_bytes: int) -> None:
        """Count a step of the engine.

        Args:
            seconds: That it took.
            read_bytes: Weights that it had to read to decode; 0 where it ran prompts alone.
        """
        self._step.observe(seconds)
        if read_bytes > 0:
            self._read.inc(read_bytes)
            self._steps.append((seconds, read_bytes))

    def _rate(self) -> float:
        steps = list(self._steps)  # another thread adds to them
        seconds = sum(one for one, _ in steps)
        return sum(one for _, one in steps) / seconds if seconds > 0 else 0.0

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)
