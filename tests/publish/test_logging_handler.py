"""The logging handler against a real Redis: complete, in order, never in the way, honest about gaps."""

import json
import logging
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from app.errors import BadSetting
from app.publish.logging_handler import HeliographHandler
from app.publish.publisher import Publisher
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.redis_server import RedisServer


@pytest.fixture
def logger(namespace: str) -> Iterator[logging.Logger]:
    """A logger of this test alone."""
    logger = logging.getLogger(namespace)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def publisher_of(server: RedisServer, namespace: str) -> Publisher:
    return Publisher(server.url, prefix=f"{namespace}:", bus_channel=f"{namespace}:events")


def lines(server: RedisServer, namespace: str, project_id: str = "7") -> list[tuple[str, str]]:
    """What stands in the project's stream: text and stream of each line."""
    with Redis.from_url(server.url) as redis:
        found: Any = redis.xrange(f"{namespace}:{{logs:{project_id}}}:log")
    data = [json.loads(b"{" + fields[b"b"])["message"] for _, fields in found]
    return [(each["line"], each["stream"]) for each in data]


async def test_what_is_logged_is_watched(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str, logger: logging.Logger
) -> None:
    """Fails if a viewer does not get each line, tracebacks too, at once and in order."""
    replica = await start_replica()
    with publisher_of(redis_server, namespace) as publisher:
        handler = HeliographHandler("7", publisher)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        logger.addHandler(handler)
        async with Client(replica.url, user="eve", path="/ws/logs/7") as viewer:
            await viewer.next("subscribed")
            logger.info("고양이 %d", 1)
            try:
                raise ValueError("no cat")
            except ValueError:
                logger.exception("failed")
            assert await viewer.messages(2) == [
                {"line": "INFO 고양이 1", "stream": "stdout"},
                {"line": "ERROR failed", "stream": "stderr"},
            ]
            assert (await viewer.next("message"))["data"]["line"] == "Traceback (most recent call last):"
        handler.close()
    assert lines(redis_server, namespace)[-1] == ("ValueError: no cat", "stderr")


def test_thousands_of_lines(redis_server: RedisServer, namespace: str, logger: logging.Logger) -> None:
    """Fails if batching loses, doubles or reorders lines."""
    with publisher_of(redis_server, namespace) as publisher:
        logger.addHandler(handler := HeliographHandler("7", publisher, flush_timeout_s=10))
        for i in range(3000):
            logger.info("%d", i)
        handler.flush()
    assert [text for text, _ in lines(redis_server, namespace)] == [str(i) for i in range(3000)]


def test_redis_that_hangs_does_not_hold_up_the_program(
    own_redis: RedisServer, namespace: str, logger: logging.Logger
) -> None:
    """Fails if logging waits for Redis, or if what did not fit in the queue is dropped without a word."""
    with publisher_of(own_redis, namespace) as publisher:
        logger.addHandler(handler := HeliographHandler("7", publisher, capacity=100, flush_timeout_s=0.3))
        logger.info("before")
        handler.flush()
        own_redis.freeze()
        began = time.monotonic()
        for i in range(5000):
            logger.info("%d", i)
        assert time.monotonic() - began < 1
        began = time.monotonic()
        handler.flush()
        assert time.monotonic() - began < 1
        own_redis.thaw()
        handler._flush_timeout_s = 5.0
        handler.flush()
        logger.info("after")
        handler.flush()
    texts = [text for text, _ in lines(own_redis, namespace)]
    assert (texts[0], texts[-1]) == ("before", "after")
    expected = 0  # the number of the next line, with those counted that the stream says are missing
    for text in texts[1:-1]:
        if text.startswith("…"):
            expected += int(text.split()[1])
        else:
            assert text == str(expected)
            expected += 1
    assert expected == 5000
    assert len(texts) < 500


def test_lines_that_redis_refuses_are_counted(own_redis: RedisServer, namespace: str, logger: logging.Logger) -> None:
    """Fails if a batch that could not be published leaves no trace."""
    with publisher_of(own_redis, namespace) as publisher:
        logger.addHandler(handler := HeliographHandler("7", publisher, flush_timeout_s=0.3))
        logger.info("before")
        handler.flush()
        own_redis.command("CONFIG", "SET", "maxmemory", "1")
        logger.info("one")
        handler.flush()
        own_redis.command("CONFIG", "SET", "maxmemory", "0")
        handler._flush_timeout_s = 5.0
        handler.flush()
    texts = [text for text, _ in lines(own_redis, namespace)]
    assert texts == ["before", "… 1 line dropped here: logged faster than published"]


def test_its_own_records_are_not_published(
    redis_server: RedisServer, namespace: str, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if what is logged while publishing is published: two handlers would keep each other busy for ever."""
    with publisher_of(redis_server, namespace) as publisher:
        log_many = publisher.log_many

        def chatty(*args: Any, **kwargs: Any) -> Any:
            logger.debug("publishing")
            return log_many(*args, **kwargs)

        monkeypatch.setattr(publisher, "log_many", chatty)
        for project_id in ("7", "8"):
            logger.addHandler(HeliographHandler(project_id, publisher))
        logger.info("one")
        for handler in logger.handlers:
            handler.flush()
    assert lines(redis_server, namespace, "7") == lines(redis_server, namespace, "8") == [("one", "stdout")]


def test_a_record_that_cannot_be_formatted(
    redis_server: RedisServer, namespace: str, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a mistake in a log call raises into the program, or stops the handler."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with publisher_of(redis_server, namespace) as publisher:
        logger.addHandler(handler := HeliographHandler("7", publisher))
        logger.info("%d", "no number")
        logger.info("\ud800")
        handler.flush()
    assert [text for text, _ in lines(redis_server, namespace)] == [
        f"(a record of {namespace!r} that cannot be formatted: TypeError)",
        "\\ud800",
    ]


def test_a_child_that_was_forked_logs_too(redis_server: RedisServer, namespace: str, logger: logging.Logger) -> None:
    """Fails if a forked child waits for the thread that it has not inherited (gunicorn, Celery's prefork)."""
    with publisher_of(redis_server, namespace) as publisher:
        logger.addHandler(handler := HeliographHandler("7", publisher))
        logger.info("parent")
        handler.flush()
        child = os.fork()
        if child == 0:
            try:
                logger.info("child")
                handler.flush()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        logger.info("parent again")
        handler.flush()
    assert [text for text, _ in lines(redis_server, namespace)] == ["parent", "child", "parent again"]


PROGRAM = """
    import logging
    from app.publish.logging_handler import HeliographHandler
    logging.getLogger().addHandler(HeliographHandler(7))
    for i in range(500):
        logging.warning("%d", i)
"""


def run_program(server: RedisServer, namespace: str) -> float:
    """Run PROGRAM to its end; seconds that took."""
    environment = {
        **os.environ,
        "HELIOGRAPH_REDIS__URL": server.url,
        "HELIOGRAPH_REDIS__PREFIX": f"{namespace}:",
    }
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM)], env=environment, check=True, timeout=20)
    return time.monotonic() - began


def test_the_end_of_the_program(own_redis: RedisServer, namespace: str) -> None:
    """Fails if the last lines of a program that ends are lost, or if it cannot end without Redis."""
    run_program(own_redis, namespace)
    assert [text for text, _ in lines(own_redis, namespace)] == [str(i) for i in range(500)]
    own_redis.freeze()
    assert run_program(own_redis, namespace) < 6


def test_dict_config(redis_server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the handler cannot be made from a configuration, as Django does."""
    from logging.config import dictConfig

    monkeypatch.delenv("HELIOGRAPH_REDIS__URL", raising=False)
    with pytest.raises(BadSetting):
        HeliographHandler(7)
    monkeypatch.setenv("HELIOGRAPH_REDIS__URL", redis_server.url)
    monkeypatch.setenv("HELIOGRAPH_REDIS__PREFIX", f"{namespace}:")
    dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {
                namespace: {
                    "class": "app.publish.logging_handler.HeliographHandler",
                    "project_id": 7,
                    "level": "INFO",
                }
            },
            "loggers": {namespace: {"handlers": [namespace], "level": "DEBUG", "propagate": False}},
        }
    )
    logger = logging.getLogger(namespace)
    logger.debug("not this")
    logger.info("this")
    logger.handlers[0].close()
    assert lines(redis_server, namespace) == [("this", "stdout")]
