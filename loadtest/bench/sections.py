"""The sections of the page, one for each part of the benchmark; empty if that was not measured."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from loadtest.bench.fronts import FRONTS
from loadtest.bench.plot import IMAGES, plot
from loadtest.bench.records import LABELS, by_system, points_of, selected
from loadtest.bench.table import grid, section, table

if TYPE_CHECKING:
    from pathlib import Path

    from loadtest.bench.records import Record

SPEED = ("deliveries/s", "deliveries_per_s", "{:,.0f}")
CPU = ("µs CPU each", "cpu_us", "{:.2f}")
KERNEL = ("of it kernel", "kernel_us", "{:.2f}")
BUSY = [("server busy", "server_cpu", "{:.0%}"), ("client busy", "client_cpu", "{:.0%}")]


def _four(records: list[Record], folder: Path) -> str:
    mine = selected(records, "growth", subscribers=1000)
    return section("One to 1,000, four messages under way", mine, [SPEED, CPU, KERNEL, *BUSY])


def _alone(records: list[Record], folder: Path) -> str:
    title = "One to 1,000, one message under way (nothing to join)"
    return section(title, selected(records, "alone"), [SPEED, CPU, KERNEL])


def _sdks(records: list[Record], folder: Path) -> str:
    mine = selected(records, "sdks")
    plain = [each["figures"]["cpu_us"] for each in mine if each["system"] == "heliograph"]
    if not plain:
        return ""
    for each in mine:
        each["figures"]["ratio"] = each["figures"]["cpu_us"] / median(plain)
    columns = [SPEED, CPU, ("to plain clients = 1", "ratio", "{:.2f}"), *BUSY]
    about = "Clients of the Centrifuge SDKs' JSON protocol, four messages under way; half and half: every second one."
    return section("One to 1,000 SDK clients", mine, columns, about)


def _growth(records: list[Record], folder: Path) -> str:
    mine = selected(records, "growth")
    if not mine:
        return ""
    speed = points_of(mine, "subscribers", lambda figures: figures["deliveries_per_s"])
    cost = points_of(mine, "subscribers", lambda figures: figures["cpu_us"])
    plot(folder, "bench-deliveries", "Deliveries a second", "subscribers", speed, logarithmic=True)
    plot(folder, "bench-cpu", "CPU for each delivery, µs", "subscribers", cost, logarithmic=True)
    return (
        "### Against the number of subscribers\n\n"
        f"![Deliveries a second against subscribers]({IMAGES}/bench-deliveries.svg)\n\n"
        f"![CPU for each delivery against subscribers]({IMAGES}/bench-cpu.svg)\n\n"
        + grid("µs CPU each", cost, "{:.2f}")
    )


def _rate(records: list[Record], folder: Path) -> str:
    mine = selected(records, "rate")
    if not mine:
        return ""
    middle = points_of(mine, "rate", lambda figures: figures["p50_us"] / 1000)
    late = points_of(mine, "rate", lambda figures: figures["p99_us"] / 1000)
    plot(folder, "bench-p50", "Latency at 1,000 subscribers, p50, ms", "messages a second", middle, logarithmic=True)
    plot(folder, "bench-p99", "Latency at 1,000 subscribers, p99, ms", "messages a second", late, logarithmic=True)
    return (
        "### Latency against rate\n\n"
        "From the moment at which a message should have been sent, to 1,000 subscribers.\n\n"
        f"![p50 against rate]({IMAGES}/bench-p50.svg)\n\n![p99 against rate]({IMAGES}/bench-p99.svg)\n\n"
        + grid("p50, ms", middle, "{:.2f}")
        + "\n\n"
        + grid("p99, ms", late, "{:.2f}")
    )


def _unicast(records: list[Record], folder: Path) -> str:
    saturated = section(
        "From one user to one user on another replica",
        selected(records, "unicast", window=8),
        [("messages/s", "deliveries_per_s", "{:,.0f}"), CPU, KERNEL, ("Redis, µs each", "redis_us", "{:.2f}"), *BUSY],
        "50 pairs, eight messages under way for each; both replicas share one core.",
    )
    steady = section(
        "The same at 2,000 messages a second",
        selected(records, "unicast", rate=2000),
        [
            ("messages/s", "deliveries_per_s", "{:,.0f}"),
            ("p50, µs", "p50_us", "{:,.0f}"),
            ("p99, µs", "p99_us", "{:,.0f}"),
            CPU,
        ],
        "Who hands on fewer than 2,000 is behind by more and more.",
    )
    return "\n\n".join(each for each in (saturated, steady) if each)


def _channels(records: list[Record], folder: Path) -> str:
    mine = selected(records, "channels")
    if not mine:
        return ""
    cost = points_of(mine, "subscribers", lambda figures: figures["cpu_us"])
    plot(folder, "bench-channels", "CPU for each message, µs", "channels", cost, logarithmic=True)
    return (
        "### Against the number of channels\n\n"
        "Each has one subscriber; they get a message by turns, 1,000 a second in all.\n\n"
        f"![CPU for each message against channels]({IMAGES}/bench-channels.svg)\n\n"
        + grid("µs CPU a message", cost, "{:.1f}")
    )


def _replicas(records: list[Record], folder: Path) -> str:
    rows = []
    for routing in ("shared", "directed"):
        for count in sorted({each["replicas"] for each in selected(records, "replicas")}):
            for name, mine in by_system(selected(records, "replicas", routing=routing, replicas=count)).items():
                row = [LABELS.get(name, name), routing if name.startswith("heliograph") else "", str(count)]
                for key, form in (("sides_us", "{:.1f}"), ("foreign_us", "{:.2f}"), ("envelopes", "{:.2f}")):
                    values = [each["figures"][key] for each in mine if key in each["figures"]]
                    row.append(form.format(median(values)) if values else "")
                rows.append(row)
    if not rows:
        return ""
    head = ["", "routing", "replicas", "µs CPU, both sides", "µs CPU, each other replica", "envelopes it received"]
    return (
        "### What other replicas pay for a message from user to user\n\n"
        "Two replicas hold 50 pairs, the others nobody; 1,000 messages a second, all figures for each message. What "
        "a replica pays for nothing is subtracted, so that a little below 0 is noise. Envelopes are counted by "
        "`heliograph_bus_received_total`; of two replicas there is no other.\n\n" + table(head, rows)
    )


def _idle(records: list[Record], folder: Path) -> str:
    mine = selected(records, "idle")
    if not mine:
        return ""
    held = points_of(
        mine,
        "subscribers",
        lambda figures: (figures["empty_kib"] + figures["memory_kib"] * figures["connections"]) / 1024,
    )
    plot(folder, "bench-memory", "Resident memory, MiB", "idle connections", held, logarithmic=False)
    most = max(each["subscribers"] for each in mine)
    columns = [
        ("KiB each", "memory_kib", "{:.1f}"),
        ("CPU while idle", "idle_cpu", "{:.2%}"),
        ("connects/s", "connects_per_s", "{:,.0f}"),
        ("µs CPU a connect", "connect_us", "{:,.0f}"),
    ]
    title = f"{most:,} idle connections, each on one channel"
    shown = section(title, selected(mine, "idle", subscribers=most), columns)
    return f"{shown}\n\n![Memory against connections]({IMAGES}/bench-memory.svg)"


def _connects(records: list[Record], folder: Path) -> str:
    mine = selected(records, "connects")
    if not mine:
        return ""
    speed = points_of(mine, "before", lambda figures: figures["connects_per_s"])
    cost = points_of(mine, "before", lambda figures: figures["connect_us"])
    return (
        "### 1,000 more connects when so many are connected already\n\n"
        + grid("connects/s", speed, "{:,.0f}")
        + "\n\n"
        + grid("µs CPU a connect", cost, "{:,.0f}")
    )


def _stall(records: list[Record], folder: Path) -> str:
    rows = []
    for name, mine in by_system(selected(records, "stall")).items():
        late: dict[int, list[float]] = {0: [], 1: []}
        for each in mine:
            if each["figures"]["p99_us"] > 0:  # a system that is behind by seconds has no latency
                late[each["stalled"]].append(each["figures"]["p99_us"] / 1000)
        if late[0] and late[1]:
            all_read, one_stalls = median(late[0]), median(late[1])
            ratio = one_stalls / all_read
            closed = [each["figures"].get("closed_3008") for each in mine if each["stalled"]]
            said = "" if None in closed else "yes" if all(closed) else "no"
            rows.append([LABELS.get(name, name), f"{all_read:.2f}", f"{one_stalls:.2f}", f"{ratio:.2f}", said])
    if not rows:
        return ""
    head = ["", "all read", "one does not", "ratio", "closed with 3008"]
    about = "50 messages of 15 kB a second. p99 of the others, in ms."
    return f"### One of 200 does not read\n\n{about}\n\n" + table(head, rows)


def _publisher(records: list[Record], folder: Path) -> str:
    mine = selected(records, "publisher")
    if not mine:
        return ""
    ways = {
        "`Publisher.publish`, each awaited": "publish",
        "the bound for it": "bound",
        "`Publisher.log_many`, 100 lines": "log_many",
        "the bound for 100": "bound_many",
        "`AsyncPublisher.publish`, 100 under way": "async_many",
    }
    forms = {"per_s": "{:,.0f}", "us": "{:.0f}", "redis_us": "{:.0f}"}
    lines = [
        [
            title,
            *(form.format(median(each["figures"][f"{way}_{key}"] for each in mine)) for key, form in forms.items()),
        ]
        for title, way in ways.items()
    ]
    return (
        "### Publishing over Redis from one program\n\n"
        "The bound is a pipeline of redis-py with XADD and PUBLISH, which gives no position, knows no repetition, "
        "and keeps no state.\n\n" + table(["", "messages/s", "µs CPU each", "of Redis, µs each"], lines)
    )


def _api(records: list[Record], folder: Path) -> str:
    columns = [
        ("publications/s", "publications_per_s", "{:,.0f}"),
        ("µs CPU each", "cpu_us", "{:.1f}"),
        ("p50 of a request, µs", "p50_us", "{:,.0f}"),
        ("p99, µs", "p99_us", "{:,.0f}"),
        *BUSY,
        ("Redis busy", "redis_cpu", "{:.0%}"),
    ]
    about = (
        "`wrk` posts the same request on connections that it keeps; it shares a core with Redis. Heliograph and "
        "Centrifugo with history keep each message in a stream, the others keep nothing."
    )
    shown: list[str] = []
    for request, connections in sorted({(each["request"], each["window"]) for each in selected(records, "api")}):
        mine = selected(records, "api", request=request, window=connections)
        many = "connection" if connections == 1 else "connections"
        shown.append(section(f"By HTTP: {request}, {connections} {many}", mine, columns, "" if shown else about))
    return "\n\n".join(shown)


def _streams(records: list[Record], folder: Path) -> str:
    columns = [SPEED, CPU, KERNEL, ("bytes each", "bytes_each", "{:,.0f}"), *BUSY]
    about = "The publisher posts by HTTP. Heliograph keeps each message, and each event has an id to go on from."
    shown = [
        section(
            "One to 1,000 event streams, four messages under way",
            selected(records, "streams", window=4),
            columns,
            about,
        ),
        section("The same at 40 messages a second", selected(records, "streams", rate=40), columns),
        section("One to 1,000 long polls, four messages under way", selected(records, "polls"), columns),
    ]
    return "\n\n".join(each for each in shown if each)


def _fronts(records: list[Record], folder: Path) -> str:
    mine = selected(records, "fronts")
    if not mine:
        return ""
    about = (
        "The proxy and the server share a core, and their CPU counts together. `nginx` is our template, with one "
        "worker; `nginx stream` and HAProxy pass TCP on by the client's address, so they cannot do what needs "
        "HTTP: limits, the path to another replica while one drains, the address of the client."
    )
    shown = []
    for title, wanted, figure in (
        ("one to 1,000, four under way, deliveries/s", {"subscribers": 1000}, "deliveries_per_s"),
        ("user to user, messages/s", {"to": "user"}, "deliveries_per_s"),
        ("publishing by HTTP, 32 connections, requests/s", {"request": "publish"}, "publications_per_s"),
    ):
        rows = []
        for name, points in by_system(selected(mine, "fronts", **wanted)).items():
            at = {front: [each["figures"] for each in points if each["front"] == front] for front in ("", *FRONTS)}
            cells = [f"{median(each[figure] for each in figures):,.0f}" if figures else "" for figures in at.values()]
            rows.append([LABELS.get(name, name), *cells])
        shown.append(table([title, "direct", *FRONTS], rows))
    return "### Through a proxy\n\n" + about + "\n\n" + "\n\n".join(shown)


def _deflate(records: list[Record], folder: Path) -> str:
    columns = [
        ("bytes each", "bytes_each", "{:,.0f}"),
        SPEED,
        CPU,
        KERNEL,
        ("Redis, µs each", "redis_us", "{:.2f}"),
        *BUSY,
    ]
    about = (
        "Messages of 2 KiB of JSON (40 objects) to 1,000 subscribers. The client inflates a frame once if all "
        "subscribers get the same bytes, so what inflating costs is not in these figures."
    )
    saturated, steady = (selected(records, "deflate", **{key: value}) for key, value in (("window", 4), ("rate", 10)))
    parts = [section("Compressed messages, four under way", saturated, columns, about)]
    late = [("p50, µs", "p50_us", "{:,.0f}"), ("p99, µs", "p99_us", "{:,.0f}"), CPU]
    parts.append(section("The same at ten messages a second", steady, late))
    return "\n\n".join(each for each in parts if each)


def _held(records: list[Record], folder: Path) -> str:
    mine = selected(records, "held")
    if not mine:
        return ""
    most = max(each["subscribers"] for each in mine)
    columns = [
        ("longest wait for a pong, ms", "held_ms", "{:,.1f}"),
        ("longest wait for another's message, ms", "other_ms", "{:,.1f}"),
        ("until the last was served, ms", "all_served_ms", "{:,.1f}"),
    ]
    return section(
        f"One message to {most:,} connections",
        selected(mine, "held", subscribers=most),
        columns,
        "Meanwhile other connections of the same server send a WebSocket ping 200 times a second, and one "
        "writes to itself as often. The longest wait for a pong is how long the server was held, or a little more: "
        "all clients share a core. A message comes later if those that were there before go out first.",
    )


SECTIONS = [
    _four,
    _alone,
    _sdks,
    _growth,
    _rate,
    _unicast,
    _channels,
    _replicas,
    _idle,
    _connects,
    _stall,
    _publisher,
    _api,
    _streams,
    _fronts,
    _deflate,
    _held,
]
