"""Pages and pictures: reports of runs, ranked galleries, attention maps, sheets of data."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attention": ["attention_maps", "draw_attention"],
        "cfs_sheet": ["draw_cfs_sheet"],
        "findings": ["of_retrieval", "ranked_rows", "tile"],
        "galleries": ["GalleryRow", "ranked_galleries"],
        "page": ["PAGE", "write_or_warn"],
        "result_pages": ["write_evaluation", "write_search", "write_selection"],
        "run_page": ["leave_page", "write_run_page"],
        "separation": ["draw_separation"],
    },
)
