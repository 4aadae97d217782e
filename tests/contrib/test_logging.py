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

from heliograph.client.publisher import Publisher
from heliograph.contrib.logging import HeliographHandler
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.ports import free_port
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
        assert time.monotonic() - began < 5  # the calls themselves
        began = time.monotonic()
        handler.flush()
        assert time.monotonic() - began < 5
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
    from heliograph.contrib.logging import HeliographHandler
    logging.getLogger().addHandler(HeliographHandler(7))
    for i in range(500):
        logging.warning("%d", i)
"""


def run_program(program: str, url: str, namespace: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH_")},
        "HELIOGRAPH_REDIS__PREFIX": f"{namespace}:",
        **({"HELIOGRAPH_REDIS__URL": url} if url else {}),
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )


def test_the_end_of_the_program(redis_server: RedisServer, namespace: str) -> None:
    """Fails if the last lines of a program that ends are lost."""
    done = run_program(PROGRAM, redis_server.url, namespace)
    assert [text for text, _ in lines(redis_server, namespace)] == [str(i) for i in range(500)]
    assert done.stderr == ""


# What is registered first runs last: after `logging` has closed all handlers.
ENDING = """
    import atexit, time
    began = 0.0
    atexit.register(lambda: print(f"ended in {time.monotonic() - began:.3f}"))
    import logging, sys
    from heliograph.contrib.logging import HeliographHandler

    class Own(logging.Handler):
        def emit(self, record):
            pass
        def close(self):
            print("own handler closed")
            super().close()

    def begin():
        global began
        began = time.monotonic()

    logging.getLogger().addHandler(Own())
    logging.getLogger().addHandler(HeliographHandler(7, flush_timeout_s=1.0))
    for i in range(500):
        logging.warning("%d", i)
    atexit.register(begin)
"""


def ended_in(done: subprocess.CompletedProcess[str]) -> float:
    return float(done.stdout.partition("ended in ")[2].split()[0])


def test_the_end_of_the_program_without_redis(own_redis: RedisServer, namespace: str) -> None:
    """Fails if a Redis that hangs delays the end by more than was said, or lines are lost without a word."""
    own_redis.freeze()
    done = run_program(ENDING, own_redis.url, namespace)
    assert 0.9 < ended_in(done) < 1.6
    assert "own handler closed" in done.stdout
    [said] = done.stderr.splitlines()
    assert said.startswith("heliograph: 500 lines of what was logged could not be published on logs:7: ")


@pytest.mark.parametrize(
    ("url", "variables", "says"),
    [
        ("", {}, "the URL of Redis is missing"),
        ("http://localhost", {}, "HELIOGRAPH_REDIS__URL: must begin with"),
        ("", {"HELIOGRAPH_NAMESPACES": "nonsense"}, "HELIOGRAPH_NAMESPACES: must be JSON"),
        ("", {"HELIOGRAPH_LOGGING": "off"}, ""),
        ("", {"HELIOGRAPH_LOGGING": "maybe"}, "HELIOGRAPH_LOGGING: "),
    ],
    ids=["no URL", "no Redis URL", "no JSON", "off", "neither on nor off"],
)
def test_a_handler_that_cannot_work(namespace: str, url: str, variables: dict[str, str], says: str) -> None:
    """Fails if the settings break the program or its own handlers, or nobody is told; "off" is told nobody."""
    done = run_program(ENDING, url, namespace, **variables)
    assert "own handler closed" in done.stdout
    assert ended_in(done) < 0.5
    if says:
        [said] = done.stderr.splitlines()
        assert said.startswith("heliograph: what is logged is not published on logs:7: ")
        assert says in said
    else:
        assert done.stderr == ""


def test_ctrl_c_while_the_end_is_waited_for(own_redis: RedisServer, namespace: str) -> None:
    """Fails if whoever is tired of waiting keeps the program's own handlers from being flushed and closed."""
    own_redis.freeze()
    program = ENDING.replace("timeout_s=1.0", "timeout_s=20.0").replace(
        "atexit.register(begin)",
        "import os, signal, threading\n"
        "    timer = threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT))\n"
        "    timer.daemon = True\n"
        "    atexit.register(timer.start)\n"
        "    atexit.register(begin)",
    )
    done = run_program(program, own_redis.url, namespace)
    assert "own handler closed" in done.stdout
    assert ended_in(done) < 5
    assert "500 lines of what was logged could not be published" in done.stderr


def test_without_standard_error(own_redis: RedisServer, namespace: str) -> None:
    """Fails if there is nobody to tell, and the handler breaks, or tells it to standard output."""
    own_redis.freeze()
    program = ENDING.replace("import logging, sys", "import logging, sys\n    sys.stderr = None")
    done = run_program(program, own_redis.url, namespace)
    assert "own handler closed" in done.stdout
    assert "heliograph" not in done.stdout


def test_huge_lines_do_not_fill_the_memory(own_redis: RedisServer, namespace: str, logger: logging.Logger) -> None:
    """Fails if what waits is kept at a length that nobody will see."""
    own_redis.freeze()
    with publisher_of(own_redis, namespace) as publisher:
        logger.addHandler(handler := HeliographHandler("7", publisher, flush_timeout_s=0.1))
        for _ in range(10):
            logger.info("x" * 1_000_000)
        assert all(len(line.text) < 40_000 for line in handler._lines)


DJANGO = """
    import os, sys
    import django
    from django.conf import settings

    settings.configure(
        INSTALLED_APPS=[],
        LOGGING={
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {
                "live": {
                    "class": "heliograph.contrib.logging.HeliographHandler",
                    "project_id": "7",
                    "level": "INFO",
                }
            },
            "root": {"handlers": ["live"], "level": "INFO"},
        },
    )
    django.setup()
    from django.core.management import execute_from_command_line

    execute_from_command_line(["manage.py", *sys.argv[1:], "check"])
    import logging
    logging.getLogger("views").info("paid")
"""


def test_django(redis_server: RedisServer, namespace: str) -> None:
    """Fails if a Django project with the handler cannot be checked where there is no Redis, or logs nothing."""
    done = run_program(DJANGO, "", namespace)
    assert "no issues" in done.stdout
    assert "the URL of Redis is missing" in done.stderr
    assert run_program(DJANGO, "", namespace, HELIOGRAPH_LOGGING="off").stderr == ""
    done = run_program(DJANGO, f"redis://127.0.0.1:{free_port()}/0", namespace)
    assert "no issues" in done.stdout
    assert "1 line of what was logged could not be published" in done.stderr
    assert run_program(DJANGO, redis_server.url, namespace).stderr == ""
    assert lines(redis_server, namespace) == [("paid", "stdout")]


def test_dict_config(redis_server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the handler cannot be made from a configuration, as Django does."""
    from logging.config import dictConfig

    monkeypatch.setenv("HELIOGRAPH_REDIS__URL", redis_server.url)
    monkeypatch.setenv("HELIOGRAPH_REDIS__PREFIX", f"{namespace}:")
    dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {
                namespace: {
                    "class": "heliograph.contrib.logging.HeliographHandler",
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
