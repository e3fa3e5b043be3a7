"""How Sphinx builds this documentation: `sphinx-build -W -n --keep-going docs site`."""

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
# Docstrings are written with the backticks of Markdown; options have two dashes, which are no dash of typography.
default_role = "code"
smartquotes = False
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
# Tests get objects of the public classes; they do not make them.
autodoc_class_signature = "separated"
python_use_unqualified_type_names = True
# What the API's signatures name and these pages do not describe: types of the standard library, and our internal ones.
nitpick_ignore_regex = [("py:.*", r"(?!pytest_comfyload\.[^.]+$).*")]

html_theme = "furo"
html_title = "pytest-comfyload"
html_static_path = ["_static"]
html_copy_source = False
html_show_sphinx = False
