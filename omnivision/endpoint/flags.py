"""An endpoint on the command line."""

from __future__ import annotations

import argparse

from omnivision.endpoint.settings import Endpoint
from omnivision.errors import ConfigError


def add_endpoint_flags(arguments: argparse.ArgumentParser, title: str) -> None:
    """The flags of an endpoint that is a teacher; its address is the flag --teacher."""
    group = arguments.add_argument_group(title)
    group.add_argument("--teacher", metavar="URL", help="address of an OpenAI-compatible endpoint, such as https://api.openai.com/v1")
    group.add_argument("--teacher-model", metavar="NAME", help="the name that the server knows it by")
    group.add_argument("--key-variable", metavar="NAME", help="environment variable with the key, e.g. OPENAI_API_KEY")
    group.add_argument("--concurrency", type=int, default=4, metavar="N", help="requests at once (default 4)")
    group.add_argument("--requests-per-minute", type=float, metavar="N")
    group.add_argument("--max-cost", type=float, metavar="X", help="stops (exit code 6) before more is spent; needs both prices")
    group.add_argument("--price-in", type=float, metavar="X", help="of a million tokens")
    group.add_argument("--price-out", type=float, metavar="X", help="of a million tokens")
    group.add_argument("--timeout", type=float, default=60.0, metavar="S", help="of one request (default 60)")


def endpoint_of(options: argparse.Namespace, **more: object) -> Endpoint:
    """The endpoint that the flags describe; `more` are settings that have no flag.

    Raises:
        ConfigError: its model is not named, or a setting cannot be.
    """
    if not options.teacher_model:
        raise ConfigError("The endpoint's model is not named", f"--teacher {options.teacher}", "Add --teacher-model NAME.")
    return Endpoint(options.teacher, options.teacher_model, key_variable=options.key_variable, concurrency=options.concurrency,
                    requests_per_minute=options.requests_per_minute, max_cost=options.max_cost, price_in=options.price_in,
                    price_out=options.price_out, timeout=options.timeout, **more)
