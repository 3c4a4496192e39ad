"""Numerical kernels of the coders: `encode` (dense product and choice) and `sparse` (products with what was chosen).

Both are plain torch, the reference, and hand over to the Triton kernels beside them where there is a GPU for these (`launch`).
"""
