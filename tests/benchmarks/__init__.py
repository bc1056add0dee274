"""Measurements of speed and size, each beside a plain way of doing the same: `make bench`."""
