from ._add_features import add_features as add_features
from ._cohort import Bag as Bag
from ._cohort import Cohort as Cohort
from ._leakage import leakage as leakage
from ._split import split as split
