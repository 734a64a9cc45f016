"""The version of this package."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("kgdet_d2")
except PackageNotFoundError:  # a checkout that is not installed
    VERSION = "0+unknown"
