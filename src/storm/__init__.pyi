from . import datasets as datasets
from . import encoders as encoders
from . import metrics as metrics
from . import model as model
from . import pl as pl
from . import tl as tl
from ._settings import settings as settings

__version__: str
