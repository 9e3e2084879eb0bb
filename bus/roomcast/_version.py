"""The version of the distribution, for the package, the edges' lease and the micro service."""

__version__ = "0.1.0"
