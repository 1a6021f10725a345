"""What the metrics make of finishes."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from paceline.server.metrics import Metrics
from paceline.server.request import Finish, FinishReason, Timings, Usage


def values(metrics: Metrics) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_a_finish_fills_the_histograms() -> None:
    """Each phase is observed once, in seconds; TPOT leaves the first token out."""
    metrics = Metrics()
    timings = Timings(0.1, 0.2, 0.9, 0.3, 1.2, batch_rows_mean=4.0, batch_rows_max=8)
    metrics.tally.ended(Finish(FinishReason.EOS, Usage(5, 10), timings))
    found = values(metrics)
    assert found["paceline_request_queue_time_seconds_sum"] == 0.1
    assert found["paceline_request_prefill_time_seconds_sum"] == 0.2
    assert found["paceline_request_decode_time_seconds_sum"] == 0.9
    assert found["paceline_time_to_first_token_seconds_sum"] == 0.3
    assert found["paceline_e2e_request_latency_seconds_sum"] == 1.2
    assert found["paceline_request_time_per_output_token_seconds_sum"] == 0.1
    assert found["paceline_request_batch_rows_sum"] == 4.0


def test_a_request_that_never_ran_has_no_first_token() -> None:
    """It counts as ended and as queued, and leaves latencies of tokens alone."""
    metrics = Metrics()
    metrics.tally.ended(
        Finish(FinishReason.TIME_LIMIT, Usage(5, 0), Timings(queue_s=2.0, total_s=2.0))
    )
    found = values(metrics)
    assert metrics.tally.finished == {"time_limit": 1}
    assert found["paceline_request_queue_time_seconds_count"] == 1
    assert found["paceline_time_to_first_token_seconds_count"] == 0


def test_tokens_that_came_together_share_their_time() -> None:
    """Three tokens after 0.3 seconds are three intervals of 0.1."""
    metrics = Metrics()
    metrics.tally.made(3, 0.3)
    found = values(metrics)
    assert found["paceline_inter_token_latency_seconds_count"] == 3
    assert abs(found["paceline_inter_token_latency_seconds_sum"] - 0.3) < 1e-9
