"""An endpoint on the command line: --teacher URL --teacher-model NAME --key-variable NAME ..., or --judge URL --judge-key-variable NAME ..."""

from __future__ import annotations

import argparse

from omnivision.endpoint.settings import Endpoint
from omnivision.errors import ConfigError

LIMITS = ("key_variable", "concurrency", "requests_per_minute", "max_cost", "price_in", "price_out", "timeout")


def is_address(who: str) -> bool:
    """Whether a model, teacher or judge is named by an endpoint's address."""
    return who.startswith(("http://", "https://"))


def add_endpoint_flags(group: argparse._ArgumentGroup, who: str, prefix: str = "") -> None:
    """The flags of an endpoint but its address, which is the flag --WHO and may stand for other things, too.

    Args:
        who: what the endpoint is: teacher, judge. prefix: stands before the names of the limits, such as "judge-".
    """
    group.add_argument(f"--{who}-model", metavar="NAME", help="the name that the server knows it by")
    group.add_argument(f"--{prefix}key-variable", metavar="NAME", help="environment variable with the key, e.g. OPENAI_API_KEY")
    group.add_argument(f"--{prefix}concurrency", type=int, default=Endpoint.concurrency, metavar="N", help="requests at once (default %(default)s)")
    group.add_argument(f"--{prefix}requests-per-minute", type=float, metavar="N")
    group.add_argument(f"--{prefix}max-cost", type=float, metavar="X", help="stops (exit code 6) before more is spent; needs both prices")
    group.add_argument(f"--{prefix}price-in", type=float, metavar="X", help="of a million tokens")
    group.add_argument(f"--{prefix}price-out", type=float, metavar="X", help="of a million tokens")
    group.add_argument(f"--{prefix}timeout", type=float, default=Endpoint.timeout, metavar="S", help="of one request (default %(default)g)")


def endpoint_of(options: argparse.Namespace, who: str, prefix: str = "", **more: object) -> Endpoint:
    """The endpoint that the flags describe.

    Args:
        who, prefix: as of `add_endpoint_flags`. more: settings that have no flag.

    Raises:
        ConfigError: its model is not named, or a setting cannot be.
    """
    address, model = getattr(options, who), getattr(options, f"{who}_model")
    if not model:
        raise ConfigError("The endpoint's model is not named", f"--{who} {address}", f"Add --{who}-model NAME.")
    return Endpoint(address, model, **{name: getattr(options, prefix.replace("-", "_") + name) for name in LIMITS}, **more)
