"""The version of the package, read by the build and by ``gloro_fast.__version__``."""

__version__ = "0.1.0"
"""The version of the package: major.minor.patch."""
