"""`fleetflame aggregator`: stores what agents send and answers queries."""

from typing import Any

import click

from aggregator.config import AggregatorConfig, QueryLimits, settings_of
from cli.options import log_options
from cli.settings import config_options


@click.command()
@config_options(AggregatorConfig, QueryLimits)
@log_options
def command(log_level: str, log_format: str, **values: Any) -> int:
    """Run one aggregator: store what agents send, keep symbols, answer queries, serve the page.

    Any number of aggregators may share one bus and one ClickHouse server. SIGTERM or Ctrl-C stops it after the requests
    and batches in hand.

    \b
    Examples:
      fleetflame aggregator --nats nats://bus:4222
      fleetflame aggregator --nats nats://bus:4222 --http 0.0.0.0:4040 --retention 14d
      fleetflame aggregator --nats nats://bus:4222 --storage https://user:secret@clickhouse:8443/fleetflame
    """
    from cli.logging import set_up
    from cli.output import colour_wanted

    config = config_of(values)
    set_up(process="aggregator", level=log_level, format_name=log_format, colour=colour_wanted())

    from aggregator.app import run

    return run(config)


def config_of(values: dict[str, Any]) -> AggregatorConfig:
    """The configuration that option values make. Raises UsageError."""
    of_limits = settings_of(QueryLimits)
    limits = QueryLimits(**{name: value for name, value in values.items() if name in of_limits})
    return AggregatorConfig(limits=limits, **{name: values[name] for name in settings_of(AggregatorConfig)})
