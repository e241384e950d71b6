"""Weights on disk: save, read, match by name, model.json; released networks and their download.

May import the network (model, resnet, variables), config, files, compat and errors.
"""
