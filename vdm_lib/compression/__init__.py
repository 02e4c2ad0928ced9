"""Lossless compression with a diffusion model by bits-back coding; `chain` says how, `container` is the file."""
