"""Counting, keeping and options: what needs no server."""

from __future__ import annotations

import os
import resource
import threading

import pytest

from openjanus.serve.admission import Admission
from openjanus.serve.errors import ApiError
from openjanus.serve.metrics import Metrics
from openjanus.serve.options import ServeOptions, is_loopback, read_keys
from openjanus.serve.server import SPARE_FILES, fit_to_files
from openjanus.serve.store import PictureStore


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_requests_are_taken_up_to_a_limit_and_again_when_one_has_left():
    admission = Admission(2, clock=Clock())
    admission.enter("a")
    admission.enter("b")
    with pytest.raises(ApiError, match="2 requests, as many as it takes") as refused:
        admission.enter("c")
    assert refused.value.status == 503
    assert refused.value.headers == {"retry-after": "1"}
    admission.leave("a")
    admission.enter("c")
    assert admission.num_inside == 2


def test_a_key_has_a_limit_of_its_own():
    admission = Admission(9, limit_per_key=1, clock=Clock())
    admission.enter("a")
    admission.enter("b")
    with pytest.raises(ApiError) as refused:
        admission.enter("a")
    assert refused.value.status == 429
    admission.leave("a")
    admission.enter("a")


def test_a_key_has_so_many_requests_a_minute():
    clock = Clock()
    admission = Admission(9, per_minute=2, clock=clock)
    for _ in range(2):
        admission.enter("a")
        admission.leave("a")
        clock.now += 10
    with pytest.raises(ApiError, match="2 requests a minute") as refused:
        admission.enter("a")
    assert (refused.value.status, refused.value.retry_after_s) == (429, 40)
    assert admission.num_inside == 0
    admission.enter("b")
    clock.now += 40
    admission.enter("a")


def test_a_request_of_n_takes_n_places():
    admission = Admission(4, limit_per_key=3, clock=Clock())
    admission.enter("a")
    admission.widen("a", 2)
    assert admission.num_inside == 3
    admission.enter("b")
    with pytest.raises(ApiError, match="4 requests, as many as it takes") as refused:
        admission.widen("b", 1)
    assert refused.value.status == 503
    admission.leave("a", 3)
    admission.enter("b")
    with pytest.raises(ApiError, match="this key has 2 requests here") as refused:
        admission.widen("b", 2)
    assert refused.value.status == 429
    with pytest.raises(ApiError, match="n is 4, and 3 at once") as refused:
        admission.widen("b", 3)
    assert refused.value.status == 400
    admission.leave("b", 2)
    assert admission.num_inside == 0


def test_nobody_is_taken_any_more_when_the_server_stops():
    admission = Admission(9, clock=Clock())
    admission.is_draining = True
    with pytest.raises(ApiError, match="is stopping") as refused:
        admission.enter("a")
    assert refused.value.status == 503


def test_pictures_are_kept_up_to_a_size_and_for_a_time():
    clock = Clock()
    store = PictureStore(10, 60, clock)
    first, second = store.put(b"1" * 5), store.put(b"2" * 5)
    assert (store.get(first), store.get(second)) == (b"1" * 5, b"2" * 5)
    third = store.put(b"3")
    assert (store.get(first), store.get(second)) == (None, b"2" * 5)
    clock.now += 59
    large = store.put(b"4" * 20)
    assert (store.get(third), store.get(large), store.num_bytes) == (None, b"4" * 20, 20)
    clock.now += 60
    assert (store.get(large), store.num_bytes) == (None, 0)
    assert len({first, second, third, large}) == 4
    assert len(first) >= 32


def test_an_open_address_needs_a_key():
    with pytest.raises(ValueError, match="can be reached from other machines"):
        ServeOptions(model_names=("x",), host="0.0.0.0")
    assert not ServeOptions(model_names=("x",), host="0.0.0.0", api_keys=("k",)).is_open
    for host in ("127.0.0.1", "127.1.2.3", "localhost", "::1"):
        assert ServeOptions(model_names=("x",), host=host).is_open
    assert not is_loopback("127.0.0.1.example.com")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model_names": ()}, "needs a name"),
        ({"port": 70_000}, "port must be in"),
        ({"api_keys": (" k",)}, "API key is empty or has spaces"),
        ({"max_requests": 0}, "max_requests must be >= 1, got 0"),
        ({"requests_per_minute": 0}, "requests_per_minute must be >= 1, got 0"),
        ({"deadline_s": 0}, "deadline_s must be a number of seconds > 0"),
        ({"public_url": "janus.example"}, "must read https://host"),
        ({"public_url": "https://janus.example/?x"}, "must read https://host"),
        ({"drain_s": float("inf")}, "drain_s must be a number of seconds > 0"),
    ],
)
def test_options_keep_their_rules(options, says):
    with pytest.raises(ValueError, match=says):
        ServeOptions(**{"model_names": ("x",), **options})


def test_reading_is_told_by_the_second_and_as_a_share_of_what_is_possible():
    metrics = Metrics(bandwidth=4e9)
    assert "openjanus_roofline_share 0.0" in metrics.text().decode()
    for seconds, read in ((0.5, 1_000_000_000), (0.5, 0), (0.5, 500_000_000)):  # 0: prompts alone
        metrics.note_step(seconds, read)
    text = metrics.text().decode()
    assert "openjanus_step_seconds_count 3.0" in text
    assert "openjanus_read_bytes_total 1.5e+09" in text
    assert "openjanus_read_bytes_per_second 1.5e+09" in text
    assert "openjanus_read_bandwidth_bytes_per_second 4e+09" in text
    assert "openjanus_roofline_share 0.375" in text
    assert "roofline" not in Metrics().text().decode()


def test_certificates_come_in_pairs_and_are_there(tmp_path):
    with pytest.raises(ValueError, match="belong together"):
        ServeOptions(model_names=("x",), tls_cert=tmp_path)
    with pytest.raises(FileNotFoundError, match="no file at"):
        ServeOptions(model_names=("x",), tls_cert=tmp_path / "a", tls_key=tmp_path / "b")


def test_keys_are_read_from_a_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# mine\n one \n\ntwo\n", encoding="utf-8")
    assert read_keys(file) == ("one", "two")
    file.write_bytes(b"\xef\xbb\xbfone\r\n")  # as some editors do
    assert read_keys(file) == ("one",)
    file.write_text("# none\n", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no API key"):
        read_keys(file)
    with pytest.raises(FileNotFoundError, match="no file of API keys"):
        read_keys(tmp_path / "other")


def test_connections_fit_into_the_limit_of_open_files(monkeypatch, caplog):
    limits = [100, 2000]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.__setitem__(0, new[0]))
    options = ServeOptions(model_names=("x",), max_connections=1024)
    assert fit_to_files(options) == options
    assert limits[0] == 1024 + SPARE_FILES
    limits[:] = [256, 256]
    assert fit_to_files(options).max_connections == 256 - SPARE_FILES
    assert "not 1024: the limit of open files is 256" in caplog.text
    limits[:] = [resource.RLIM_INFINITY] * 2
    assert fit_to_files(options) == options
    limits[:] = [50, 50]
    with pytest.raises(ValueError, match="raise ulimit -n"):
        fit_to_files(options)


def test_keys_come_through_a_pipe_and_are_not_for_all_to_read(tmp_path, caplog):
    file, pipe = tmp_path / "keys", tmp_path / "pipe"
    file.write_text("one\n", encoding="utf-8")
    file.chmod(0o644)
    read_keys(file)
    assert "can be read by every user" in caplog.text
    caplog.clear()
    file.chmod(0o600)
    read_keys(file)
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("two\n",))
    writer.start()
    assert read_keys(pipe) == ("two",)
    writer.join()
    assert not caplog.text
