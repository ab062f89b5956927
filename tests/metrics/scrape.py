"""Reading what a scrape returned."""

from prometheus_client.parser import text_string_to_metric_families

LABELS = ("task", "queue", "state", "outcome", "le")


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return values by name and label values, the labels in the order of `LABELS`."""
    return {
        (sample.name, *(sample.labels[label] for label in LABELS if label in sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def families(text: str) -> set[str]:
    return {family.name for family in text_string_to_metric_families(text)}
