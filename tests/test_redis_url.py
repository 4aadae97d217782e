"""Addresses of Redis, as the settings give them."""

import pytest

from heliograph.backends.redis.client import open_pool
from heliograph.backends.redis.sync_pool import open_pool_sync
from heliograph.redis_url import (
    check_redis_url,
    database_of,
    read_cluster_address,
    read_sentinel_address,
    without_password,
)

GROUP = (
    "redis+sentinel://user:p%40ss@one:26380,two/3?master=main&sentinel_user=s&sentinel_password=q&ssl_ca_certs=/ca"
)


def test_an_address_of_sentinels_is_read() -> None:
    """Fails if a Sentinel, a password or an option of the servers is lost or goes to the wrong side."""
    address = read_sentinel_address(GROUP)
    assert address is not None
    assert address.sentinels == (("one", 26380), ("two", 26379))
    assert (address.master, address.user, address.password) == ("main", "s", "q")
    assert address.server_url == "redis://user:p%40ss@one:26380/3?ssl_ca_certs=%2Fca"
    assert database_of(GROUP) == 3


def test_tls_and_addresses_of_version_6_are_read() -> None:
    """Fails if TLS to the servers is dropped, or a host in brackets is cut at its colons."""
    address = read_sentinel_address("rediss+sentinel://[::1]:7,[::2]/0?master=m")
    assert address is not None
    assert address.sentinels == (("::1", 7), ("::2", 26379))
    assert address.server_url.startswith("rediss://")


@pytest.mark.parametrize("hosts", ["[::1],[::2]", "one,[::2]", "[::1]:26379,two"])
def test_hosts_of_version_6_stand_anywhere_in_a_list(hosts: str) -> None:
    """Fails if a list is read as one host in brackets, which must not have anything beside it but a port."""
    address = read_sentinel_address(check_redis_url(f"redis+sentinel://:secret@{hosts}/0?master=m"))
    assert address is not None
    assert [host for host, _ in address.sentinels] == [
        host.removesuffix(":26379").strip("[]") for host in hosts.split(",")
    ]
    assert without_password(f"redis+sentinel://:secret@{hosts}/0?master=m") == f"redis+sentinel://{hosts}/0?master=m"


def test_an_address_of_a_cluster_is_read() -> None:
    """Fails if a server, a password or an option is lost, or the number of shards is another than was said."""
    address = read_cluster_address("rediss+cluster://user:p%40ss@one:7000,two/0?virtual_shards=4&ssl_ca_certs=/ca")
    assert address is not None
    assert address.nodes == (("one", 7000), ("two", 6379))
    assert address.virtual_shards == 4
    assert address.server_url == "rediss://user:p%40ss@one:7000/0?ssl_ca_certs=%2Fca"
    default = read_cluster_address("redis+cluster://one")
    assert default is not None
    assert default.virtual_shards == 16


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+sentinel://one/0", "which master"),
        ("redis+sentinel:///0?master=m", "cannot be read"),
        ("redis+sentinel://one:x/0?master=m", "cannot be read"),
        ("redis+sentinel://one,one/0?master=m", "twice"),
        ("redis+sentinel://:p@ss/word@one/0?master=m", "cannot be read"),
        ("redis+sentinel://one/zero?master=m", "cannot be read"),
        ("redis+sentinel://one/0?master=m#x", "cannot be read"),
        ("redis+cluster://one/1", "only number 0"),
        ("redis+cluster://one?db=1", "only number 0"),
        ("redis+cluster://one:x", "cannot be read"),
        ("redis+cluster://:p@ss/word@one", "cannot be read"),
        ("redis+cluster://one?virtual_shards=0", "from 1 to 256"),
        ("redis+cluster://one?virtual_shards=²", "from 1 to 256"),
        ("one:6379", "must begin with"),
        ("redis://one,two/0", "cannot be read"),
        ("redis://one /0", "cannot be read"),
        ("redis+sentinel://one:1, two:1/0?master=m", "cannot be read"),
        ("redis+sentinel://u:p@one:1,u:p@two:1/0?master=m", "cannot be read"),
        ("redis://one/0?nosuch=1", "an option .* none of client_name"),
        ("redis://one/0?decode_responses=true", "an option .* none of"),
        ("redis://one/0?ssl_ca_certs=/ca", "an option .* none of"),
        ("unix:///socket?socket_keepalive=yes", "an option .* none of"),
        ("redis+sentinel://one/0?master=m&sentinel_pass=q", "an option .* none of .* sentinel_password"),
        ("redis+cluster://one?virtual_shard=4", "an option .* none of .* virtual_shards"),
    ],
)
def test_a_bad_address_is_refused_without_its_password(url: str, says: str) -> None:
    """Fails if a mistake is only found when Redis is asked, or if the error shows a part of the password."""
    with pytest.raises(ValueError, match=says) as caught:
        check_redis_url(url)
    assert "ss/word" not in str(caught.value)


def test_every_option_that_is_accepted_is_one_of_redis_py() -> None:
    """Fails if an option gets through with which a program cannot make a connection, or not read its answers."""
    plain = "client_name=x&health_check_interval=3&max_connections=5&protocol=3&retry_on_timeout=yes"
    plain += "&socket_connect_timeout=2&socket_read_size=4096&socket_timeout=2&timeout=2&username=u&password=p"
    tls = "ssl_ca_certs=/ca&ssl_ca_data=x&ssl_ca_path=/cas&ssl_cert_reqs=required&ssl_certfile=/cert&ssl_ciphers=x"
    tls += "&ssl_check_hostname=yes&ssl_keyfile=/key&ssl_min_version=771&ssl_password=p"
    for url in (
        f"unix:///socket?db=1&{plain}",
        f"redis://one?db=1&socket_keepalive=yes&{plain}",
        f"rediss://one?db=1&socket_keepalive=yes&{plain}&{tls}",
    ):
        check_redis_url(url)
        open_pool(url, max_connections=1, timeout_s=1).make_connection()  # type: ignore[no-untyped-call]
        open_pool_sync(url, max_connections=1).make_connection()  # type: ignore[no-untyped-call]


def test_what_is_shown_has_no_password() -> None:
    """Fails if a log line or the screen of `heliograph up` shows a secret."""
    shown = without_password(GROUP)
    assert shown == "redis+sentinel://one:26380,two/3?master=main&ssl_ca_certs=%2Fca"
    assert without_password("redis://:secret@one:1/2") == "redis://one:1/2"
