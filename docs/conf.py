"""Settings of the documentation site: ``make docs`` builds it, warnings are errors."""

import sys
from pathlib import Path

import jax

import wpl_jax

sys.path.insert(0, str(Path(__file__).parent))  # for sphinx_extension

jax.Array.__qualname__ = "Array"  # It is that of a private module.

project = "wpl_jax"
author = "The wpl_jax authors"
project_copyright = author
version = release = wpl_jax.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_parser",
    "sphinx_extension",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext", ".ipynb": "notebook"}

# References to modules, functions and methods of this package have to lead somewhere.
nitpicky = True
nitpick_ignore_regex = [("py:(class|data|exc|obj|attr)", ".*"), ("py:func", r"jax\..*")]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
highlight_language = "none"  # where nothing says that it is Python
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"wpl_jax {version}"
html_copy_source = False
