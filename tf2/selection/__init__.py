"""Which images to label: methods that choose from features, with bounded memory.

Plain NumPy (k-means is scikit-learn's). May import errors and what stands on the floors below.
"""
