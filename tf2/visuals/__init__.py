"""Figures, tables, TensorBoard's projector and the model card of a run.

May import job and all that stands below it.
"""
