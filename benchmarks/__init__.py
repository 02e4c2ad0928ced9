"""Timings and sizes; `make bench` runs them."""
