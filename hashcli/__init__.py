"""hashcli: search your photos by compact binary codes learned from them."""

__version__ = "0.1.0"
