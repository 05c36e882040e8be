from . import cfs as cfs
from . import data as data
from . import finetune as finetune
from . import models as models
from . import pretrain as pretrain
from . import report as report
from . import retrieval as retrieval
from . import training as training
from .errors import UserError as UserError
from .models import load_backbone as load_backbone
from .retrieval import Embedder as Embedder
from .shipped import load_recipe as load_recipe

__version__: str
__all__ = ["Embedder", "UserError", "__version__", "load_backbone", "load_recipe"]
