"""Tables of tokens a second: the ladder, a file offline, streams, and what deterministic mode costs."""

from __future__ import annotations

from collections.abc import Iterator

from cells import Result, cases_of, rate, row, span, unit_of, units_of

# Unit, what it adds, where its figures lie.
OURS = (
    ("graphs", "+ CUDA graphs"),
    ("compile", "+ compiled layers"),
    ("fused-layers", "+ fused layers in their place"),
    ("launch-ahead", "+ launch-ahead"),
    ("served", "+ process split, served over gRPC"),
)


def ladder(results: Result, reference: Result) -> Iterator[str]:
    rows = list(_rungs(results))
    if not rows:
        return
    padded = next((speed for name, speed, *_ in rows if "padded batches" in name), None)
    yield "### The ladder\n"
    yield "| system | requests | output tok/s | to the one before | to padded batches | steps | padding |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    before = None
    for name, speed, requests, steps, waste in rows:
        if name.startswith("paceline, sequential"):
            before = None  # another system begins
        cells = [
            name,
            f"{requests}",
            rate(speed),
            "" if before is None else f"{speed / before:.2f}",
            "" if padded is None else f"{speed / padded:.2f}",
            "" if steps is None else f"{steps}",
            "" if waste is None else f"{waste:.0%}",
        ]
        yield row(cells)
        before = speed


def _rungs(results: Result) -> Iterator[tuple[str, float, int, int | None, float | None]]:
    """Name, output tokens a second, requests measured, steps, padding waste."""
    for line in (unit_of(results, "ladder/transformers") or {"systems": []})["systems"]:
        size = line["batch_size"]
        name = "one by one" if size == 1 else f"padded batches of {size}"
        yield (
            f"transformers `generate()`, {name}",
            line["output_tokens_per_s"],
            line["requests"],
            None,
            line["padding_waste"],
        )
    if peer := unit_of(results, "ladder/transformers-continuous"):
        name = "transformers, continuous batching, paged SDPA"
        yield name, peer["output_tokens_per_s"], peer["requests"], None, None
    cases = {case["mode"]: case for case in cases_of(results, "ladder/modes")}
    for mode in ("sequential", "static", "dynamic", "continuous"):
        if mode in cases:
            yield _rung(f"paceline, {mode}, eager", cases[mode])
    for unit, name in OURS:
        if found := unit_of(results, f"ladder/{unit}"):
            found = found | {"requests": found.get("requests") or found["passes"][0]["requests"]}
            yield _rung(name, found)


def _rung(name: str, found: Result) -> tuple[str, float, int, int | None, float | None]:
    return (
        name,
        found["output_tokens_per_s"],
        found["requests"],
        found.get("steps"),
        found.get("padding_waste"),
    )


def offline(results: Result, reference: Result) -> Iterator[str]:
    units = units_of(results, "offline/")
    if not units:
        return
    yield "### A file, offline\n"
    yield (
        f"| model's shape | output tok/s | passes | steps | mean rows | padding | every request whole | "
        f"{reference['system']} | ratio |"
    )
    yield "|---|---:|---:|---:|---:|---:|---|---:|---:|"
    for shape, found in units.items():
        rates = [found["output_tokens"] / wall for wall in found["wall_s_runs"]]
        peer = reference["offline_tok_s"].get(shape)
        yield row(
            [
                shape,
                rate(found["output_tokens_per_s"]),
                f"{rate(min(rates))}-{rate(max(rates))}",
                f"{found['steps']}",
                f"{found['mean_rows']:.0f}",
                f"{found['padding_waste']:.0%}",
                "yes" if found["exact"] else "**no**",
                rate(peer["best"]) if peer else "",
                f"{found['output_tokens_per_s'] / peer['best']:.2f}" if peer else "",
            ]
        )


def streams(results: Result, reference: Result) -> Iterator[str]:
    units = units_of(results, "streams/")
    if not units:
        return
    yield "### Streams over gRPC\n"
    yield (
        "| front ends | streams | output tok/s | TTFT ms mean / p50 / p99 | TPOT ms mean / p99 | busiest client | "
        f"{reference['system']}: tok/s | TTFT mean / p99 | TPOT |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for count, unit in units.items():
        for level in unit["levels"]:
            peer = reference["streams"].get(str(level["concurrency"]))
            yield row(
                [
                    "default" if count == "auto" else count,
                    f"{level['concurrency']}",
                    rate(level["output_tok_s"]),
                    _ms(level["ttft_ms"], "mean", "p50", "p99"),
                    _ms(level["tpot_ms"], "mean", "p99", digits=2),
                    f"{level['client_busiest']:.0%}",
                    span(peer, "output_tok_s"),
                    f"{span(peer, 'ttft_mean_ms')} / {span(peer, 'ttft_p99_ms')}" if peer else "",
                    span(peer, "tpot_mean_ms"),
                ]
            )


def deterministic(results: Result, reference: Result) -> Iterator[str]:
    units = units_of(results, "deterministic/")
    rates = {
        name: case["output_tokens_per_s"]
        for name, unit in units.items()
        for case in unit["cases"]
        if "output_tokens_per_s" in case
    }
    if top := unit_of(results, "ladder/launch-ahead"):
        rates.setdefault("off", top["output_tokens_per_s"])
    if set(rates) != {"on", "off"}:
        return
    yield "### Deterministic mode\n"
    checks = [case for case in units["on"]["cases"] if "identical" in case]
    yield (
        f"{rate(rates['on'])} output tok/s with `--deterministic`, {rate(rates['off'])} without: "
        f"{rates['on'] / rates['off']:.2f} of the throughput."
    )
    for check in checks:
        same = "all" if check["identical"] else f"**all but {len(check['different'])}**"
        yield (
            f"Tokens and log-probabilities alone and in crowds of {check['rows']}: {same} of {check['compared']} "
            "comparisons are bit-identical."
        )


def fp8(results: Result, reference: Result) -> Iterator[str]:
    """Weights in fp8 beside those in bfloat16, of the same call where both were measured in it."""
    units = units_of(results, "fp8/")
    if not units:
        return
    yield "### Weights in fp8\n"
    yield "| model's shape | what | bfloat16 | fp8 | times as fast |"
    yield "|---|---|---:|---:|---:|"
    for name, found in units.items():
        kind, _, shape = name.partition("-")
        plain = unit_of(results, f"{kind}/{shape}")
        if plain is None:
            continue
        if kind == "offline":
            before, after = plain["output_tokens_per_s"], found["output_tokens_per_s"]
            cells = ["the file, output tok/s", rate(before), rate(after), f"{after / before:.2f}"]
            yield row([shape, *cells])
            continue
        slow = {case["rows"]: case["step_ms"] for case in plain["cases"] if "step_ms" in case}
        for case in found["cases"]:
            if case.get("step_ms") and case["rows"] in slow:
                before, after = slow[case["rows"]], case["step_ms"]
                what = f"a step of {case['rows']} rows, ms"
                yield row([shape, what, f"{before:.2f}", f"{after:.2f}", f"{before / after:.2f}"])


def several(results: Result, reference: Result) -> Iterator[str]:
    """Streams of one engine and of several, and of a model that is spread over GPUs."""
    units = units_of(results, "replicas/") | units_of(results, "tensor-parallel/")
    if not units:
        return
    yield "### Several GPUs\n"
    yield "| what | streams | output tok/s | TTFT ms p50 / p99 | TPOT ms mean / p99 |"
    yield "|---|---:|---:|---:|---:|"
    for name, unit in units.items():
        shape, _, engines = name.rpartition("-")
        what = f"{shape}, engines: {engines}" if engines.isdecimal() else name
        for level in unit["levels"]:
            cells = [what, f"{level['concurrency']}", rate(level["output_tok_s"])]
            cells += [_ms(level["ttft_ms"], "p50", "p99")]
            yield row([*cells, _ms(level["tpot_ms"], "mean", "p99", digits=2)])


def _ms(found: dict[str, float], *keys: str, digits: int = 1) -> str:
    return " / ".join(f"{found[key]:.{digits}f}" for key in keys)
