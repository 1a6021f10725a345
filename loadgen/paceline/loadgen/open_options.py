"""The bench's settings of an open loop: arrivals, rates, the search. Pure."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from paceline.loadgen.arrivals import parse_arrival
from paceline.loadgen.option_checks import CHECKS, POISSON, rate_list
from paceline.loadgen.options import HELP, LoadOptions
from paceline.loadgen.slo import EXAMPLE

AUTO = "auto"
LOAD = LoadOptions()  # the defaults
MODES = ("continuous",)  # unless named: a rate that one mode holds would drown another


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """Which rates are offered, and how requests arrive."""

    arrival: str = POISSON
    rates: tuple[
        float, ...
    ] = ()  # none: those of the arrivals, of a measured saturation, or of the search
    search: bool = False
    max_outstanding: int = LOAD.max_outstanding
    over_saturation: str = LOAD.over_saturation

    @property
    def own_rate(self) -> bool:
        """The arrivals bring their rate."""
        return parse_arrival(self.arrival).has_own_rate

    @property
    def calibrated(self) -> bool:
        """The saturation is to be measured first."""
        return not self.rates and not self.own_rate


def add_open_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags; any of --rates, --search and --arrival makes the bench an open loop."""
    add = parser.add_argument
    add(
        "--rates",
        type=_rates,
        help="open loop: requests a second, for example 1,2,4, or auto: fractions of a measured saturation",
    )
    add("--arrival", type=CHECKS["arrival"], help=HELP["arrival"])
    add(
        "--search",
        action="store_true",
        help=f"open loop: find the highest rate that meets the first --slo, such as {EXAMPLE}",
    )
    add(
        "--max-outstanding",
        type=CHECKS["max_outstanding"],
        default=LOAD.max_outstanding,
        help="arrivals beyond so many in flight are dropped and counted (default: 1024)",
    )
    add(
        "--over-saturation",
        type=CHECKS["over_saturation"],
        default=LOAD.over_saturation,
        help="after a rate that the server did not keep up with: stop (default) or continue",
    )


def read_open(given: argparse.Namespace) -> OpenOptions | None:
    """The settings; None where the bench is a closed loop. ArgumentTypeError where they do not fit together."""
    if given.rates is None and given.arrival is None and not given.search:
        return None
    made = OpenOptions(
        arrival=given.arrival or LoadOptions(workload=given.workload, mix=given.mix).arrivals,
        rates=given.rates or (),
        search=given.search,
        max_outstanding=given.max_outstanding,
        over_saturation=given.over_saturation,
    )
    wrong = _wrong(made, given)
    if wrong:
        raise argparse.ArgumentTypeError(wrong)
    return made


def _wrong(made: OpenOptions, given: argparse.Namespace) -> str:
    if given.concurrency:
        return "give either --concurrency (closed loop) or --rates, --arrival, --search (open loop)"
    if made.own_rate and (given.rates is not None or made.search):
        return f"{made.arrival} has its own rate: leave --rates and --search out"
    if made.search and given.rates is not None:
        return "give either --rates or --search"
    if made.search and not given.slo:
        return f"--search needs an SLO to meet: --slo {EXAMPLE}"
    return ""


def _rates(text: str) -> tuple[float, ...]:
    return () if text == AUTO else _listed(text)


def _listed(text: Any) -> tuple[float, ...]:
    found = rate_list(text)
    if not found:
        raise argparse.ArgumentTypeError("name at least one rate, or auto")
    return found
