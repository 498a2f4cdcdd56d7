"""The aggregator's options: what is accepted, what is refused before anything is opened, what may be shown."""

from typing import Any

import pytest

from aggregator.config import (
    Address,
    AggregatorConfig,
    QueryLimits,
    check_nats_url,
    default_of,
    parse_address,
    redacted,
    settings_of,
)
from aggregator.storage.types import StorageOptions
from aggregator.symbols.service import SymbolConfig
from fleetflame.errors import UsageError


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:4040", "127.0.0.1", 4040, True),
        ("localhost:0", "localhost", 0, True),
        ("127.8.9.1:1", "127.8.9.1", 1, True),
        ("[::1]:4040", "::1", 4040, True),
        ("[::]:4040", "::", 4040, False),
        (":4040", "0.0.0.0", 4040, False),
        ("0.0.0.0:80", "0.0.0.0", 80, False),
        ("profiles.example:443", "profiles.example", 443, False),
    ],
)
def test_addresses_are_read(text: str, host: str, port: int, loopback: bool) -> None:
    """IPv6 stands in brackets; without a host it is every interface."""
    address = parse_address(text)
    assert (address.host, address.port, address.is_loopback) == (host, port, loopback)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("text", ["", "4040", "host", "host:", "host:x", "host:65536", "::1:4040", "host:-1", "[]:1"])
def test_other_addresses_are_refused(text: str) -> None:
    """With the form that is."""
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert "HOST:PORT" in caught.value.hint


def test_an_address_can_be_opened_in_a_browser() -> None:
    """Every interface is reached by loopback."""
    assert Address("0.0.0.0", 80).url == "http://127.0.0.1:80"
    assert Address("::", 80).url == "http://[::1]:80"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nats": "http://x"}, "not a NATS URL"),
        ({"nats": ""}, "not a NATS URL"),
        ({"nats": "nats://a:4222,b:4222"}, "not a NATS URL: `b:4222`"),
        ({"storage": ""}, "the storage is empty"),
        ({"storage": "ftp://x"}, "not a ClickHouse URL"),
        ({"storage": "http://user:secret@:99999/"}, "not a ClickHouse URL: `http://user:***@:99999/`"),
        ({"cluster": "fleet"}, "needs a ClickHouse server"),
        ({"retention_s": 3600}, "retention"),
        ({"retention_s": 90_000}, "retention"),
        ({"retention_s": 100 * 86_400}, "rolled retention"),
        ({"memory": 1000}, "the memory 1000 is too small"),
        ({"disk_budget": 1}, "disk budget"),
        ({"upload_bytes": 0}, "upload"),
        ({"debuginfod_urls": ("debuginfod.example",)}, "not a debuginfod URL"),
    ],
)
def test_values_without_sense_are_refused(values: dict[str, Any], message: str) -> None:
    """Before anything is opened, and without a password in the message."""
    with pytest.raises(UsageError) as caught:
        AggregatorConfig(**values)
    assert message in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("name", settings_of(QueryLimits))
def test_a_limit_is_never_below_nothing(name: str) -> None:
    """One at least, but for the queue, which may be empty."""
    with pytest.raises(UsageError):
        QueryLimits(**{name: -1})


def test_urls_are_shown_without_their_secrets() -> None:
    """Passwords and tokens."""
    assert redacted("nats://user:pa@ss@host:1") == "nats://user:***@host:1"
    assert redacted("nats://token@host:1") == "nats://***@host:1"
    assert redacted("nats://host:1") == "nats://host:1"
    assert redacted("/var/lib/x@y") == "/var/lib/x@y"
    assert redacted("nats://a:b@one:1,nats://c:d@two:2") == "nats://a:***@one:1,nats://c:***@two:2"


def test_several_servers_of_a_cluster_are_read() -> None:
    """Separated by commas."""
    assert check_nats_url("nats://a:4222, tls://b:4222") == ("nats://a:4222", "tls://b:4222")


def test_every_setting_has_help_and_a_default_that_is_valid() -> None:
    """The command line and the docs are made from them."""
    assert AggregatorConfig().limits == QueryLimits()
    for config in (AggregatorConfig, QueryLimits):
        for name, setting in settings_of(config).items():
            assert setting.help.endswith(".")
            assert default_of(config, name) is not None


def test_defaults_are_those_of_the_parts() -> None:
    """What the store and the symbol service do when nobody says anything."""
    config = AggregatorConfig()
    storage, symbols = StorageOptions(location="x"), SymbolConfig(folder=config.symbols_folder)
    assert config.memory == storage.memory_bytes
    assert config.disk_budget == storage.disk_bytes
    assert config.retention_s == storage.raw_days * 86_400
    assert config.rolled_retention_s == storage.rolled_days * 86_400
    assert config.limits.concurrent == storage.readers
    assert (config.symbols_budget, config.debug_dirs) == (symbols.budget, symbols.debug_dirs)
    assert config.upload_bytes == symbols.upload_bytes
