"""Version number, which the build reads without importing the package."""

__version__ = "0.1.0"

READER = 2
"""Latest version of files, manifests and journals that this program reads.

Each of them says which reader it needs at least.
"""
