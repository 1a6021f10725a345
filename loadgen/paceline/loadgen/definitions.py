"""Every metric of the report with its formula, and what each mode does, in words."""

from __future__ import annotations

SYMBOLS = (
    "t_send: the call was sent. t_1: the first message with at least one token arrived, it held n_1 tokens."
    " t_n: the last message with tokens arrived. t_end: the call's status arrived. n: all output tokens, by the"
    " server's own count in each message."
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
