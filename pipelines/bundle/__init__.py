"""Bundles: what `vdm export` writes, how it is checked, and how it is published whole or not at all."""
