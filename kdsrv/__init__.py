"""An open connection server for Windows kernel debugging."""

__all__ = ["__version__"]

__version__ = "0.1.0"
