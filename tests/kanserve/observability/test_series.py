"""kanserve's counters, gauges and histograms give the output of prometheus_client."""

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from kanserve.observability import series

LABELS = ("model", "version")
VALUES = st.tuples(st.text(max_size=4), st.sampled_from(["1", "2"]))
AMOUNTS = st.floats(0, 1e6)
BOUNDS = (50e-6, 0.5, 1.0, 1024.0)
disable_created_metrics()


def registry(*collectors: series.Family) -> CollectorRegistry:
    created = CollectorRegistry()
    for collector in collectors:
        created.register(collector)
    return created


@settings(max_examples=settings.default.max_examples // 5)
@given(st.lists(st.tuples(VALUES, AMOUNTS | st.sampled_from(BOUNDS))))
def test_the_text_is_that_of_the_library(events: list[tuple[tuple[str, str], float]]) -> None:
    counter = series.number("c_total", "Counts.", LABELS)
    gauge = series.number("g", "Stands.", LABELS)
    histogram = series.histogram("h", "Spreads.", LABELS, BOUNDS)
    theirs = CollectorRegistry()
    same = (
        Counter("c_total", "Counts.", LABELS, registry=theirs),
        Gauge("g", "Stands.", LABELS, registry=theirs),
        Histogram("h", "Spreads.", LABELS, registry=theirs, buckets=BOUNDS),
    )
    for labels, amount in events:
        for created in (counter, same[0]):
            created.labels(*labels).inc(amount)
        for created in (gauge, same[1]):
            created.labels(*labels).inc(amount)
            created.labels(*labels).dec()
        for created in (histogram, same[2]):
            created.labels(*labels).observe(amount)
    assert generate_latest(registry(counter, gauge, histogram)) == generate_latest(theirs)


def test_without_labels_the_series_is_there_from_the_start() -> None:
    gauge = series.number("g", "Stands.", ())
    assert b"\ng 0.0\n" in generate_latest(registry(gauge))
    gauge.labels().set(2)
    assert b"\ng 2.0\n" in generate_latest(registry(gauge))
