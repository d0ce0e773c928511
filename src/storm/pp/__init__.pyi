from ._check import check as check
from ._report import CheckReport as CheckReport
