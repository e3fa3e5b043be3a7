"""Sphinx configuration of this documentation: `sphinx-build -W -n --keep-going docs site`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest_comfyload

sys.path.insert(0, str(Path(__file__).parent))

project = "pytest-comfyload"
author = "The pytest-comfyload developers"
copyright = "the pytest-comfyload developers"
release = pytest_comfyload.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "declared"]
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
# Docstrings use the backticks of Markdown; the two dashes of options are not typographic dashes.
default_role = "code"
smartquotes = False
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
# Tests receive objects of the public classes; they do not construct them.
autodoc_class_signature = "separated"
python_use_unqualified_type_names = True
# Types in the API's signatures that these pages do not describe: those of the standard library, and internal ones.
nitpick_ignore_regex = [("py:.*", r"(?!pytest_comfyload\.[^.]+$).*")]

html_theme = "furo"
html_title = "pytest-comfyload"
html_static_path = ["_static"]
html_copy_source = False
html_show_sphinx = False
