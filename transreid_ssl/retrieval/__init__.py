"""Retrieval: features of images, nearest neighbours, and what a ranking is worth."""

from transreid_ssl.retrieval.baseline import colour_histogram
from transreid_ssl.retrieval.chance import chance
from transreid_ssl.retrieval.embed import embed, embed_batches
from transreid_ssl.retrieval.metrics import RetrievalMetrics, evaluate, format_table
from transreid_ssl.retrieval.neighbours import nearest_neighbours, ranked_gallery
from transreid_ssl.retrieval.verification import roc

__all__ = [
    "RetrievalMetrics",
    "chance",
    "colour_histogram",
    "embed",
    "embed_batches",
    "evaluate",
    "format_table",
    "nearest_neighbours",
    "ranked_gallery",
    "roc",
]
