"""Helpers of the BONSAI Reasoning Notebooks; importing the package loads nothing heavy."""

__version__ = "0.1.0"
