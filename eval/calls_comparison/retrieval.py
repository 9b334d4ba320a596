"""Which functions a request may mean: BM25 over words, or the nearest in an embedding space (LSA), both without a network.

Legend: N documents, D dimensions of the space.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Protocol

import numpy as np

K1, B = 1.5, 0.75  # BM25's usual constants
DIMENSIONS = 100  # of LSA's space, fewer where there are fewer functions


class Retriever(Protocol):
    """Names of functions, the likeliest first."""

    def top(self, request: str, k: int) -> list[str]: ...


def words(text: str) -> list[str]:
    """Lower-case words; the parts of a name with underscores are words of their own."""
    return re.findall(r"[^\W_]+", text.lower())


class Bm25:
    """Okapi BM25, with the inverse document frequency that is never negative (Lucene's).

    Args:
        documents: name -> text.
    """

    def __init__(self, documents: dict[str, str]) -> None:
        self.names = list(documents)
        counts = [Counter(words(text)) for text in documents.values()]
        lengths = np.array([max(1, count.total()) for count in counts])
        relative = 1 - B + B * lengths / lengths.mean()
        found: dict[str, dict[int, int]] = {}
        for number, count in enumerate(counts):
            for word, times in count.items():
                found.setdefault(word, {})[number] = times
        self.weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # word -> documents that have it, and what it adds to their scores
        for word, its in found.items():
            where, times = np.array(list(its)), np.array(list(its.values()))
            rarity = math.log(1 + (len(counts) - len(its) + 0.5) / (len(its) + 0.5))
            self.weights[word] = where, rarity * times * (K1 + 1) / (times + K1 * relative[where])

    def top(self, request: str, k: int) -> list[str]:
        scores_N = np.zeros(len(self.names))
        for word in words(request):
            if word in self.weights:
                where, weight = self.weights[word]
                scores_N[where] += weight
        return _best(scores_N, self.names, k)


class Lsa:
    """Latent semantic analysis: cosine of TF-IDF vectors brought to few dimensions.

    Means of the tiny model's token embeddings, the other way without a network, found a fifth of what this finds among 1,000 functions.

    Args:
        documents: name -> text.
    """

    def __init__(self, documents: dict[str, str]) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.names = list(documents)
        self.vectors = TfidfVectorizer(sublinear_tf=True, tokenizer=words, token_pattern=None)
        weighted = self.vectors.fit_transform(documents.values())
        self.space = TruncatedSVD(max(1, min(DIMENSIONS, *(size - 1 for size in weighted.shape))), random_state=0).fit(weighted)
        self.documents_ND = _unit(self.space.transform(weighted))

    def top(self, request: str, k: int) -> list[str]:
        request_D = _unit(self.space.transform(self.vectors.transform([request])))[0]
        return _best(self.documents_ND @ request_D, self.names, k)


def _unit(rows_ND: np.ndarray) -> np.ndarray:
    return rows_ND / np.maximum(np.linalg.norm(rows_ND, axis=1, keepdims=True), 1e-9)


def _best(scores_N: np.ndarray, names: list[str], k: int) -> list[str]:
    return [names[at] for at in np.argsort(-scores_N, kind="stable")[:k]]


def recall(retriever: Retriever, rows: list[dict], k: int) -> float:
    """Share of rows whose function is among the k likeliest, in 0-100."""
    return 100 * sum(row["calls"][0]["name"] in retriever.top(row["request"], k) for row in rows) / max(1, len(rows))
