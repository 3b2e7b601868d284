import pytest

from write_batcher.queue.redis_url import Kind, RedisAddress, parse_address


@pytest.mark.parametrize(
    ("url", "kind", "nodes", "service", "first"),
    [
        ("redis://h", Kind.SERVER, [("h", 6379)], "", "redis://h/0"),
        (
            "rediss://:p%2Fw@h:1/2?ssl_ca_certs=/ca",
            Kind.SERVER,
            [("h", 1)],
            "",
            "rediss://:p%2Fw@h:1/2?ssl_ca_certs=/ca",
        ),
        ("redis+cluster://u:p@a:1,b", Kind.CLUSTER, [("a", 1), ("b", 6379)], "", "redis://u:p@a:1/0"),
        ("rediss+cluster://[::1]:1,[::2]:2/0", Kind.CLUSTER, [("::1", 1), ("::2", 2)], "", "rediss://[::1]:1/0"),
        ("redis+sentinel://a,b:2/my%2Fset", Kind.SENTINEL, [("a", 26379), ("b", 2)], "my/set", "redis://a/0"),
        ("rediss+sentinel://:p@a/set/3?x=y", Kind.SENTINEL, [("a", 26379)], "set", "rediss://:p@a/3?x=y"),
    ],
)
def test_url_names_its_nodes(url: str, kind: Kind, nodes: list[tuple[str, int]], service: str, first: str) -> None:
    assert parse_address(url) == RedisAddress(kind=kind, nodes=nodes, service=service, first=first)


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
def test_other_urls_are_refused_with_the_forms_that_are_known(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis\+cluster://HOST:PORT,HOST:PORT or redis\+sentinel://"):
        parse_address(url)
