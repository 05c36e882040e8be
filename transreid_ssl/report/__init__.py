"""Pictures: ranked galleries, attention maps, sheets of selected data."""

from transreid_ssl.report.attention import attention_maps, draw_attention
from transreid_ssl.report.cfs_sheet import draw_cfs_sheet
from transreid_ssl.report.galleries import GalleryRow, ranked_galleries

__all__ = ["GalleryRow", "attention_maps", "draw_attention", "draw_cfs_sheet", "ranked_galleries"]
