"""Where images come from: TensorFlow Datasets, folders and tables, the embedded digits.

Every source has splits, records in a known order, and decoding. May import files, compat, errors,
progress.
"""
