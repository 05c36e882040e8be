"""Self-supervised pre-training, data selection, fine-tuning and evaluation for person ReID.

Importing the package makes its networks known to timm.
"""

from transreid_ssl.errors import UserError
from transreid_ssl.models import load_backbone

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "load_backbone"]
