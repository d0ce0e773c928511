from . import benchmark as benchmark
from . import datasets as datasets
from . import encoders as encoders
from . import expression as expression
from . import get as get
from . import io as io
from . import metrics as metrics
from . import model as model
from . import pl as pl
from . import pp as pp
from . import prognosis as prognosis
from . import tl as tl
from ._loading import ExpressionHead as ExpressionHead
from ._loading import StormModel as StormModel
from ._loading import build_model as build_model
from ._loading import load_model as load_model
from ._report import ReportCard as ReportCard
from ._report import write_report as write_report
from ._report import write_report_index as write_report_index
from ._settings import settings as settings
from .pretraining.head import HeadConfig as HeadConfig

__version__: str
