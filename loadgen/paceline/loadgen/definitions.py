"""Every metric of the report with its formula, and what each mode does, in words."""

from __future__ import annotations

SYMBOLS = (
    "t_int: an open loop intended to send it. t_send: the call was sent. t_1: the first message with at least one"
    " token arrived, it held n_1 tokens. t_n: the last message with tokens arrived. t_end: the call's status arrived."
    " n: all output tokens, by the server's own count in each message."
)
DEFINITIONS = (
    ("TTFT, time to first token", "t_1 - t_send."),
    (
        "TPOT, time per output token",
        "(t_n - t_1) / (n - n_1), per request; undefined when n = n_1.",
    ),
    (
        "ITL, inter-token latency",
        "Each gap between two messages divided over the tokens that the later one brought, pooled over all requests.",
    ),
    ("E2E, end-to-end latency", "t_end - t_send, of requests that came to their own end."),
    (
        "Output throughput",
        "Output tokens whose message arrived in the steady window / length of the window. Requests that straddle"
        " an edge count with the tokens that fell inside.",
    ),
    (
        "Steady window",
        "The longest span of a level, after warm-up, with at least 90 % of the target in flight. Ramp and drain are"
        " outside. Where the target was never reached, the span from first to last send; then the level is not steady.",
    ),
    ("Achieved concurrency", "Requests in flight, weighted by time, in the window."),
    (
        "Rate, arrivals",
        "Open loop: requests a second that come by a seeded schedule of absolute times, whatever the server does. A"
        " level of a rate holds just rate x seconds arrivals. Its window goes from the first to the last of them that"
        " is due after warm-up (the first 15 %). Where an arrival begins a conversation, its later turns come beside"
        " them: each is due a think time after the answer before it, and its latencies from schedule count from then.",
    ),
    (
        "Over-saturated",
        "The slope of a straight line through the number in flight is a tenth of the rate or more, and at least five"
        " requests over the level: more come than end. Higher rates are left out.",
    ),
    (
        "Dropped, late",
        "Dropped: arrivals that were not sent, as too many were outstanding, or as the load generator was so late that"
        " their level had ended; they are misses of every SLO. Late: sent more than 10 ms after they were due. `!`: the"
        " delay is degraded.",
    ),
    (
        "Saturation",
        "Requests a second that ended in a closed loop with 32 in flight, measured before the rates.",
    ),
    (
        "Search",
        "Bisection on a logarithmic scale for the highest rate at which the share of judged requests that met all"
        " limits is at least the SLO's highest percentile, at a level that was not over-saturated. The number of"
        " levels is bounded; rates within 8 % end it.",
    ),
    (
        "TTFT and E2E from schedule, dispatch delay",
        "Open loop only: t_1 - t_int, t_end - t_int, t_send - t_int. A stall of the load generator shows in the"
        " first two and not in latencies from the send. The delay is called degraded if its p99 exceeds 10 ms and 1"
        " % of the median TTFT. SLOs, scatters and curves take latencies from the schedule where there is one.",
    ),
    (
        "Tokens per second of one reader",
        "1 / TPOT per request; the slowest tenth is its p10. E2E per token: (t_end - t_send) / n.",
    ),
    ("Longest stall", "The largest gap between two messages with tokens of a request."),
    (
        "Goodput, attainment",
        "Of the requests sent in the window: good are those that ended OK and met ALL limits of the SLO."
        " Attainment: good / judged, where shed, failed and missed requests are judged as misses. A request cut by the"
        " end of its level is a miss if it had already broken its TTFT or E2E limit and else not judged; one that its"
        " workload cancelled is not judged. Goodput: good / length of the window, as requests and as their tokens."
        " Its interval is Wilson's.",
    ),
    (
        "SLO, passes",
        "`ttft_p99=450,tpot_p99=40`: milliseconds. A level passes if each named percentile over all judged requests,"
        " failed ones counted as endless, keeps its limit. Named SLOs are the p99 limits of MLPerf Inference for the"
        " model and scenario they are named after (mlcommons/inference); they are yardsticks here, not MLPerf results.",
    ),
    (
        "Fairness",
        "Medians of the requests in each quarter of the prompt lengths, and of each kind in a mix; max/median is the"
        " largest of these medians over the median of all requests, of groups with at least five requests: 1 where"
        " nobody waits longer than others.",
    ),
    (
        "Little's law",
        "Requests in flight against completions per second times their mean E2E. Allowed: 5 %, or twice the spread that"
        " the ages of what is in flight at the window's two edges make by themselves, if that is more.",
    ),
    (
        "Repeats, noise floor",
        "With `--repeat N` all systems are measured N times, in an order that turns by one each time. Charts and tables"
        " show of each level the repeat with the median throughput. Over the repeats: median, mean with its 95 %"
        " interval by Student's t, variation (standard deviation / mean), noise floor (largest / smallest - 1).",
    ),
    (
        "Percentiles",
        "Exact, from raw values. A percentile q is printed only if n (1 - q) >= 10; in its place the tail columns name"
        " the highest one the sample supports, or the maximum.",
    ),
    ("95 % interval", "Percentile bootstrap of the median, 1,000 draws."),
    (
        "Padding waste",
        "1 - real / padded: tokens that carried a request's work, over tokens the model computed. Counted by the server"
        " over the window; for the transformers baselines from the lengths of each batch.",
    ),
    (
        "Tokens of a message",
        "gRPC: the server's own count in each message. OpenAI's protocol: the server's running count where messages"
        " have one; else each message with text counts as one token, and once the usage at the end gives another total,"
        " this total is shared out evenly over the messages. Messages without text, such as an empty first one, do not"
        " count.",
    ),
    (
        "Limit",
        "Client: in the window a process of the load generator used more than 85 % of a core, or its event loop was"
        " more than 10 ms late (p99), or sends were late for their schedule (p99 above 10 ms and above 1 % of the"
        " median TTFT). Else server: steps took at least 90 % of the window. Else unknown.",
    ),
    (
        "Client CPU, loop lag, pauses",
        "CPU: processor time of all threads of a process / time. Lag: how late a greenlet that sleeps 20 ms wakes up,"
        " its p99. Pauses: time the garbage collector stops the process. Sampled twice a second, the worst process"
        " counts.",
    ),
    ("Rows per step", "Sum over steps of rows that did work / steps, in the window."),
    ("KV peak", "Most pages of keys and values in use / pages there are."),
    (
        "Cached",
        "Prompt tokens that the server's prefix cache had and did not compute / prompt tokens.",
    ),
    ("Server busy", "Seconds spent in model steps / seconds of the window."),
    (
        "Queue, prefill, decode, network",
        "Queue: arrival at the server until first scheduled. Prefill: until the first token. Decode: until the last."
        " Network: TTFT less the server's own time to first token. Means of requests in the window.",
    ),
    (
        "Total time",
        "Output tokens of the baselines' prompts / output throughput, so that all systems are asked for the same work."
        " A baseline that ran all its prompts took just this long.",
    ),
    (
        "Mean latency",
        "For a mode: mean E2E. For a baseline: from the start of a prompt's batch to its end.",
    ),
    (
        "Speedup",
        "Output throughput / that of transformers one by one; without baselines, that of the sequential mode at its"
        " lowest concurrency.",
    ),
    (
        "Cut",
        "Requests ended by the end of their level. They are no errors, and have no E2E, nor a TTFT if no token came.",
    ),
    (
        "Missed",
        "Requests whose own gRPC deadline passed first (DEADLINE_EXCEEDED). They are no failures; E2E lacks them, and"
        " TTFT if no token came. A call that only the run's time limit ended has failed.",
    ),
    (
        "Cancelled",
        "Requests that the workload itself cancelled after some tokens, as a reader who leaves. They count in TTFT and"
        " ITL, not in TPOT and E2E.",
    ),
    (
        "Kind",
        "Class of a request: part of a mix, short or long, turn of a conversation, or probe. A probe is a short, fixed"
        " request sent at fixed times beside the load; it counts in no figure but its own.",
    ),
    (
        "≥, hollow points",
        "More than 10 % of the requests were cut or missed their deadline before they could show this latency, the"
        " slowest first: the figure is a lower bound. The rates of such a level hold.",
    ),
)
