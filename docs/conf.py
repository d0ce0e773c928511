"""Sphinx configuration. Built offline, with warnings as errors: ``python -m sphinx -W -b html docs docs/_build``."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import storm

project = "STORM"
author = "The STORM developers"
copyright = author
release = version = storm.__version__

extensions = [
    "matplotlib.sphinxext.plot_directive",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "**.ipynb_checkpoints"]

# API pages come from the numpydoc docstrings; types come from the signatures
autosummary_generate = True
# A field that overrides a property of its base class is described in the class's docstring, once.
autodoc_inherit_docstrings = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_param = True
default_role = "code"

# Figures of the docstrings of storm.pl, drawn at every build. What an example writes stays out of the sources.
plot_formats = [("png", 110)]
plot_html_show_formats = plot_html_show_source_link = False
plot_rcparams = {"savefig.bbox": "tight"}
plot_apply_rcparams = True
# no progress bars in the log of a build
storm.settings.verbosity = 0
plot_working_directory = tempfile.mkdtemp(prefix="storm-docs-")

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Notebooks are stored without outputs and run at every build; a failing cell fails the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_execution_raise_on_error = True
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The pages below start/ run on files that docs/example_files.py draws; `!storm` is the one of this environment.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
# Tutorials show real sections where a mirror of them lies beside the repository, as the tests do.
mirror = Path(__file__).resolve().parents[2] / "shared" / "data"
if mirror.is_dir():
    os.environ.setdefault("STORM_DATA_DIR", str(mirror))
# Hide the advice of the kernel's debugger, which does not belong into a tutorial.
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
os.environ.setdefault("NUMBA_CACHE_DIR", os.path.join(tempfile.gettempdir(), "storm-docs-numba"))

# Links to other projects need the network; an offline build shows them as plain text.
if os.environ.get("READTHEDOCS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "python": ("https://docs.python.org/3/", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "spatialdata": ("https://spatialdata.scverse.org/en/stable/", None),
        "squidpy": ("https://squidpy.readthedocs.io/en/stable/", None),
        "torch": ("https://pytorch.org/docs/stable/", None),
    }

html_static_path = ["_static"]
html_css_files = ["storm.css"]
html_theme = "sphinx_book_theme"
html_title = "STORM"
html_theme_options = {"show_toc_level": 2}
