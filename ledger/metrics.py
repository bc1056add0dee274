"""The names of scores, for people."""

SUCCESS = "edit_success"
"""The share of an answer's tokens that are right: 1 where the whole answer is."""
METRICS = {
    SUCCESS: "edit success",
    "generalization": "generalisation",
    "locality": "locality",
    "stability": "stability",
    "exact_match": "exact match",
    "preference": "P(new) > P(old)",
    "perplexity": "perplexity",
    "out_of_distribution": "out of distribution",
    "generated_match": "generated match",
    "routed_edits": "edits routed",
    "routed_rephrasings": "rephrasings routed",
    "routed_locality": "locality routed",
    "answer_match": "answer generated",
    "rephrasing_match": "rephrasing answered",
    "kl_divergence": "KL divergence (nats)",
    "same_top": "same first choice",
}
NO_SHARES = frozenset({"perplexity", "kl_divergence"})
"""What is not between 0 and 1."""


def metric_name(metric: str) -> str:
    """Kinds of probes have whatever names a dataset gives them."""
    return METRICS.get(metric, metric.replace("_", " "))
