"""What a framework calls relevance, from 0 to 1, of scores as docs/search.md defines them."""

from __future__ import annotations

from vecmeter_client.errors import InvalidInputError


def check_relevant(mode: str, fusion: str | None) -> None:
    """Raises InvalidInputError where scores have no bounds that could be 0 and 1."""
    if mode == "text" or (mode == "hybrid" and fusion == "rrf"):
        scores = "mode text" if mode == "text" else "fusion rrf"
        raise InvalidInputError(
            f"mode: scores of {scores} are no relevance from 0 to 1; use similarity_search_with_score"
        )


def relevance(score: float, metric: str | None) -> float:
    """From 0 to 1, higher is better.

    Args:
        metric: The score's; None for that of a hybrid search by weights, which lies between 0 and 1.

    Raises:
        InvalidInputError: an inner product beyond those of vectors of unit length.
    """
    if metric in (None, "l2"):  # 1 / (1 + distance)
        return score
    # A cosine; of vectors of unit length, the inner product is one, but for what float32 rounds.
    if abs(score) > 1.0 + 1e-5:
        raise InvalidInputError(
            f"score: an inner product of {score} is no relevance from 0 to 1, as of vectors of unit length;"
            " use similarity_search_with_score"
        )
    return min(max((1.0 + score) / 2.0, 0.0), 1.0)
