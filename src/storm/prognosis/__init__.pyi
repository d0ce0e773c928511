from ._add_features import add_features as add_features
from ._add_slides import add_slides as add_slides
from ._check import check as check
from ._cohort import Bag as Bag
from ._cohort import Cohort as Cohort
from ._leakage import leakage as leakage
from ._split import split as split
