"""Numerical kernels, used by coders/latents.py alone. `sparse` is the reference; faster ones are tested against it."""
