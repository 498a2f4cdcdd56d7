"""Options made from the settings of a configuration class: their names, defaults and help are written there, once."""

from collections.abc import Callable
from typing import Any, TypeVar

from aggregator.config import Kind, Setting, default_of, settings_of
from cli.options import option
from cli.params import ADDRESS, DURATION, SIZE, format_seconds, format_size

F = TypeVar("F", bound=Callable[..., Any])


def config_options(*configs: type) -> Callable[[F], F]:
    """One option for each setting of these configuration classes; the verb gets them under their fields' names."""

    def decorate(function: F) -> F:
        for config in reversed(configs):
            for name, setting in reversed(settings_of(config).items()):
                function = _config_option(config, name, setting)(function)
        return function

    return decorate


def _config_option(config: type, name: str, setting: Setting) -> Callable[[F], F]:
    flag = setting.option or name.replace("_", "-")
    default = default_of(config, name)
    settings: dict[str, Any] = {
        "default": _written(default, setting.kind),
        "help": setting.help,
        "metavar": setting.metavar,
        "multiple": setting.kind is Kind.TEXTS,
        "type": _TYPES[setting.kind],
        "envvar": [f"FLEETFLAME_AGGREGATOR_{flag.upper().replace('-', '_')}", *setting.envvars],
    }
    if setting.shown:
        settings["show_default"] = setting.shown
    return option(f"--{flag}", name, **settings)


def _written(value: Any, kind: Kind) -> Any:
    if kind is Kind.DURATION:
        return format_seconds(value)
    if kind is Kind.SIZE:
        return format_size(value)
    return str(value) if kind is Kind.ADDRESS else value


_TYPES: dict[Kind, Any] = {
    Kind.TEXT: str,
    Kind.TEXTS: str,
    Kind.NUMBER: int,
    Kind.DURATION: DURATION,
    Kind.SIZE: SIZE,
    Kind.ADDRESS: ADDRESS,
}
