"""Data sets: named ones, files, folders and functions, all as `Data`."""

from shrinkage.data.dataset import Data
from shrinkage.data.fetch import fetch
from shrinkage.data.load import load_data
from shrinkage.data.show import DataSummary, describe_data, draw_samples
from shrinkage.data.sources import available, locate

__all__ = [
    "Data",
    "DataSummary",
    "available",
    "describe_data",
    "draw_samples",
    "fetch",
    "load_data",
    "locate",
]
