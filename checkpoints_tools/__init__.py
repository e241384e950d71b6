"""Checkpoints of other programs in, checkpoints for other programs out, exactly.

Our own names are the hub: every format maps them to its names, one to one, and to nothing else. A
weight of a checkpoint that no name claims, or one of ours that none fills, is an error.

    tensors      names, shapes and values read one at a time; what a reader returns
    formats      the formats: how each is recognised, read, written, and names its weights
    name_map     our names <-> foreign names, as functions of the architecture
    bundle, atomic      TensorFlow's checkpoint files in pieces; files whole or not at all
    tensorflow_formats, savedmodel, safetensors_file, keras_file      register formats
    network      a checkpoint of any format -> a whole network under our names
    convert, inspect, verify, catalog, download      programs, each with a function of its name
"""
