"""A trained network at work: features, probes, predictions and exports, in Python and as files.

May import visuals, job and all that stands below them.
"""
