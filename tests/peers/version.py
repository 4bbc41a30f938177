"""Prints the version of PyTorch as major.minor, and the arguments after it."""

import sys

import torch

print(".".join(torch.__version__.split(".")[:2]), *sys.argv[1:])
