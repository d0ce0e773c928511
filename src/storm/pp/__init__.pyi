from ._check import check as check
from ._report import CheckReport as CheckReport
from ._set_scale import set_scale as set_scale
from ._split_along_x import split_along_x as split_along_x
from ._sum_windows import sum_windows as sum_windows
