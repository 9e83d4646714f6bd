"""Bounded readers, one module a format: idx, mat, npz, csv, image folders, CIFAR's binary batches.

A file is material to judge. A truncated, lying or bomb-like one is one clear `DataError`: sizes are
checked against what the file can hold before memory is taken, and nothing is ever unpickled.
"""
