"""Image operations beyond crop and flip: color, rotation, noise, cutout, Sobel; all stateless.

May import compat and errors only.
"""
