"""Tables of one step: its time beside the least that the device needs, and its kernels."""

from __future__ import annotations

from collections.abc import Iterator

from cells import Result, rate, row, units_of
from roofline import Device, Shape


def steps(results: Result, reference: Result) -> Iterator[str]:
    units = units_of(results, "steps/")
    if not units:
        return
    yield "### The time of a decode step\n"
    yield from _step_table(results, units, reference)


def growth(results: Result, reference: Result) -> Iterator[str]:
    units = units_of(results, "growth/")
    for title, wanted in (("rows", False), ("context", True)):
        chosen = {
            shape: unit
            | {"cases": [c for c in unit["cases"] if ("context" in c) == wanted and "step_ms" in c]}
            for shape, unit in units.items()
        }
        if any(unit["cases"] for unit in chosen.values()):
            yield f"### How a step grows with {title}\n"
            yield from _growth_table(results, chosen)
            yield ""


def _device(results: Result) -> Device:
    machine = results["environment"]
    return Device(machine["copy_gb_s"] * 1e9, machine["matmul_tflop_s"] * 1e12)


def _growth_table(results: Result, units: dict[str, Result]) -> Iterator[str]:
    """Medians: few steps are measured for each line, and one pause of the host would be most of a mean."""
    yield "| model's shape | rows | context | median step ms | tok/s | floor ms | set by | step / floor |"
    yield "|---|---:|---:|---:|---:|---:|---|---:|"
    for name, unit in units.items():
        for case in unit["cases"]:
            shape, step_ms = Shape(**unit["shape"]), case["step_ms_median"]
            floor, kind = _device(results).floor_ms(shape, case["rows"], case["context_mean"])
            yield row(
                [
                    name,
                    f"{case['rows']}",
                    f"{case['context_mean']:.0f}",
                    f"{step_ms:.2f}",
                    rate(case["rows"] / step_ms * 1e3),
                    f"{floor:.2f}",
                    kind,
                    f"{step_ms / floor:.2f}",
                ]
            )


def _step_table(results: Result, units: dict[str, Result], reference: Result) -> Iterator[str]:
    """Beside each step the time that the device needs at least, by its own measured rates."""
    device = _device(results)
    peers = f" {reference['system']} ms |"
    yield f"| model's shape | rows | context | step ms | tok/s | floor ms | set by | step / floor |{peers}"
    yield "|---|---:|---:|---:|---:|---:|---|---:|" + "---:|"
    for name, unit in units.items():
        for case in unit["cases"]:
            if "step_ms" not in case:
                continue
            floor, kind = device.floor_ms(
                Shape(**unit["shape"]), case["rows"], case["context_mean"]
            )
            cells = [
                name,
                f"{case['rows']}",
                f"{case['context_mean']:.0f}",
                f"{case['step_ms']:.2f}",
                rate(case["tok_s"]),
                f"{floor:.2f}",
                kind,
                f"{case['step_ms'] / floor:.2f}",
            ]
            peer = reference["step_ms"].get(name, {}).get(str(case["rows"]))
            cells.append("" if peer is None else f"{peer:.2f}")
            yield row(cells)


def profile(results: Result, reference: Result) -> Iterator[str]:
    for shape, unit in units_of(results, "profile/").items():
        for case in unit["cases"]:
            busy = case["device_busy_share"]
            waits, own = case["host_calls_per_step"], case.get("host_own_ms_per_step")
            calls = ", ".join(f"{name} {count:g}" for name, count in waits.items()) or "none"
            yield f"### Kernels of {shape}, {case['rows']} rows\n"
            yield (
                f"{case['steps']} steps under the profiler, {case['window_ms_per_step']:.2f} ms each"
                + ("" if busy is None else f"; the device computed {busy:.0%} of the time")
                + f". Calls of the host a step: {calls}."
                + (
                    f" Its own work, outside of the driver's calls: {own:.2f} ms.\n"
                    if own
                    else "\n"
                )
            )
            yield "| kernel | share | calls a step | us a call |"
            yield "|---|---:|---:|---:|"
            for line in case["top"]:
                name = line["name"].replace("|", "\\|")[:90]
                yield row(
                    [
                        f"`{name}`",
                        f"{line['share']:.1%}",
                        f"{line['calls_per_step']:.1f}",
                        f"{line['us_per_call']:.1f}",
                    ]
                )
            yield ""
