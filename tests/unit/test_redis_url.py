import pytest

from write_batcher.queue.redis_url import RedisAddress, RedisSetup, parse_redis_url


@pytest.mark.parametrize(
    ("url", "setup", "nodes", "service", "first_url"),
    [
        ("redis://h", RedisSetup.SINGLE, [("h", 6379)], "", "redis://h/0"),
        (
            "rediss://:p%2Fw@h:1/2?ssl_ca_certs=/ca",
            RedisSetup.SINGLE,
            [("h", 1)],
            "",
            "rediss://:p%2Fw@h:1/2?ssl_ca_certs=/ca",
        ),
        ("redis+cluster://u:p@a:1,b", RedisSetup.CLUSTER, [("a", 1), ("b", 6379)], "", "redis://u:p@a:1/0"),
        ("rediss+cluster://[::1]:1,[::2]:2/0", RedisSetup.CLUSTER, [("::1", 1), ("::2", 2)], "", "rediss://[::1]:1/0"),
        ("redis+sentinel://a,b:2/my%2Fset", RedisSetup.SENTINEL, [("a", 26379), ("b", 2)], "my/set", "redis://a/0"),
        ("rediss+sentinel://:p@a/set/3?x=y", RedisSetup.SENTINEL, [("a", 26379)], "set", "rediss://:p@a/3?x=y"),
    ],
)
def test_redis_url_is_parsed_into_its_nodes(
    url: str, setup: RedisSetup, nodes: list[tuple[str, int]], service: str, first_url: str
) -> None:
    assert parse_redis_url(url) == RedisAddress(setup=setup, nodes=nodes, service=service, first_url=first_url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://a,b",
        "redis://a/b",
        "redis+://a",
        "redis+proxy://a",
        "http+cluster://a",
        "redis+cluster://",
        "redis+cluster://a,",
        "redis+cluster://a:x",
        "redis+cluster://a/1",
        "redis+sentinel://a",
        "redis+sentinel://a/",
        "redis+sentinel://a/set/x",
    ],
)
def test_malformed_redis_url_is_refused_with_the_known_forms(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis\+cluster://HOST:PORT,HOST:PORT or redis\+sentinel://"):
        parse_redis_url(url)
