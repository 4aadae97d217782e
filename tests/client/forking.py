"""A program that forks at bad moments (`python -m tests.client.forking WHAT URL PREFIX TIMES`).

Each child publishes one thing and must end by itself; the program ends with status 1 if one has not.
"""

import asyncio
import logging
import multiprocessing
import os
import random
import sys
import threading
import time
from collections.abc import Callable

from heliograph.client.feed import Feed
from heliograph.client.publisher import AsyncPublisher, Publisher
from heliograph.contrib.logging import HeliographHandler

CHILD_WITHIN_S = 8.0


def in_child(what: Callable[[], object]) -> None:
    """Fork, do this in the child, and wait until it has ended well."""
    child = os.fork()
    if child == 0:
        try:
            what()
        except BaseException as error:  # noqa: BLE001 - a child ends here, whatever it comes to
            print(f"child: {error!r}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + CHILD_WITHIN_S
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                sys.exit(f"a child ended with {status}")
            return
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            sys.exit("a child hangs")
        time.sleep(0.002)


def handler(made: Callable[[], Publisher], times: int) -> None:
    """One line, and a fork while the thread connects and loads the script."""
    logger = logging.getLogger("forking")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for number in range(times):
        one = HeliographHandler("h", made(), flush_timeout_s=CHILD_WITHIN_S)
        logger.handlers = [one]
        logger.info("parent %d", number)
        time.sleep(random.uniform(0, 0.005))

        def child(one: HeliographHandler = one, number: int = number) -> None:
            logger.info("child %d", number)
            one.flush()

        in_child(child)
        one.close()


def process(made: Callable[[], Publisher], times: int) -> None:
    """A child of `multiprocessing` logs one line and ends."""
    logger = logging.getLogger("forking")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [HeliographHandler("m", made(), flush_timeout_s=CHILD_WITHIN_S)]
    for number in range(times):
        logger.info("parent %d", number)
        child = multiprocessing.get_context("fork").Process(target=logger.info, args=("child %d", number))
        child.start()
        child.join(CHILD_WITHIN_S)
        if child.exitcode != 0:
            child.kill()
            sys.exit(f"child {number} ended with {child.exitcode}")


def publisher(made: Callable[[], Publisher], times: int) -> None:
    """Threads publish all the time while `multiprocessing` forks."""
    shared = made()
    over = threading.Event()

    def keep_publishing() -> None:
        while not over.is_set():
            shared.publish("noise", 1)

    threads = [threading.Thread(target=keep_publishing) for _ in range(3)]
    for thread in threads:
        thread.start()
    context = multiprocessing.get_context("fork")
    try:
        for number in range(times):
            child = context.Process(target=shared.publish, args=("logs:p", {"line": f"child {number}", "stream": ""}))
            child.start()
            child.join(CHILD_WITHIN_S)
            if child.exitcode != 0:
                child.kill()
                sys.exit(f"child {number} ended with {child.exitcode}")
    finally:
        over.set()
        for thread in threads:
            thread.join()


def feed(made: Callable[[], Publisher], times: int) -> None:
    """What a feed has begun to send is the parent's; what a child offers is sent by the child."""
    shared = made()
    for number in range(times):
        one = Feed(lambda data, key: shared.publish("logs:f", data, key), lambda lines: {"dropped": lines})
        one.start()
        one.offer({"line": f"parent {number}", "stream": ""})
        time.sleep(random.uniform(0, 0.002))

        def child(one: Feed = one, number: int = number) -> None:
            one.offer({"line": f"child {number}", "stream": ""})
            if one.close(CHILD_WITHIN_S):
                sys.exit(1)

        in_child(child)
        if one.close(CHILD_WITHIN_S):
            sys.exit("lost by the parent")


def asynchronous(url: str, prefix: str, times: int) -> None:
    """The parent's loop goes on with its own connection, the child's new loop gets another."""

    async def main() -> None:
        shared = AsyncPublisher(url, prefix=prefix)
        for number in range(times):
            await shared.publish("logs:a", {"line": f"parent {number}", "stream": ""})

            def child(number: int = number) -> None:
                asyncio._set_running_loop(None)
                asyncio.set_event_loop(None)
                asyncio.run(shared.publish("logs:a", {"line": f"child {number}", "stream": ""}))

            in_child(child)
        await shared.publish("logs:a", {"line": "parent last", "stream": ""})
        await shared.close()

    asyncio.run(main())


def main(what: str, url: str, prefix: str, times: str) -> None:
    def made() -> Publisher:
        return Publisher(url, prefix=prefix)

    if what == "async":
        asynchronous(url, prefix, int(times))
    else:
        {"handler": handler, "process": process, "publisher": publisher, "feed": feed}[what](made, int(times))


if __name__ == "__main__":
    main(*sys.argv[1:])
