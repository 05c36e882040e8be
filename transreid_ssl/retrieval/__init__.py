"""Retrieval: features of images, nearest neighbours, and what a ranking is worth."""

from transreid_ssl.retrieval.baseline import colour_histogram
from transreid_ssl.retrieval.chance import chance
from transreid_ssl.retrieval.clustering import cluster, jaccard_graph
from transreid_ssl.retrieval.embed import embed_batches, embed_images, embed_protocol
from transreid_ssl.retrieval.metrics import RetrievalMetrics, evaluate, format_table
from transreid_ssl.retrieval.neighbours import nearest_neighbours, ranked_gallery
from transreid_ssl.retrieval.reranking import Reranking, expand_queries, rerank
from transreid_ssl.retrieval.verification import OperatingPoint, operating_points

__all__ = [
    "OperatingPoint",
    "Reranking",
    "RetrievalMetrics",
    "chance",
    "cluster",
    "colour_histogram",
    "embed_batches",
    "embed_images",
    "embed_protocol",
    "evaluate",
    "expand_queries",
    "format_table",
    "jaccard_graph",
    "nearest_neighbours",
    "operating_points",
    "ranked_gallery",
    "rerank",
]
