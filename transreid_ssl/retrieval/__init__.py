"""Retrieval: features of images, nearest neighbours, and what a ranking is worth."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["embed", "separation"],
    submod_attrs={
        "approximate": ["Graph"],
        "baseline": ["colour_histogram"],
        "calibration": ["fit_probability", "known_thresholds", "reliability"],
        "chance": ["chance"],
        "clustering": ["choose_eps", "cluster", "cluster_graph", "jaccard_graph"],
        "embed": ["embed_batches", "embed_images", "embed_protocol"],
        "embedder": ["Embedder"],
        "metrics": ["RetrievalMetrics", "evaluate", "format_table"],
        "neighbours": ["nearest_neighbours", "ranked_gallery"],
        "reranking": ["Reranking", "expand_queries", "rerank"],
        "separation": ["Separation", "camera_share", "effective_rank", "separate"],
        "sure_pairs": ["SurePairs", "find_sure_pairs"],
        "whitening": ["learn_whitening", "whiten"],
        "verification": ["OperatingPoint", "PairCounts", "count_pairs", "operating_points"],
    },
)
