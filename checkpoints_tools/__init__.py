"""Converts checkpoints from and to the formats of other programs, exactly.

Our names are the hub: every format maps them to its own names, one to one. A weight without one of
our names is an error, and so is one of our names without a weight.

    tensors      names, shapes, and values that are read one at a time
    formats      how each format is recognised, read, written, and names its weights
    name_map     our names <-> foreign names, as functions of the architecture
    bundle, atomic      TensorFlow's checkpoint files in pieces; files complete or not at all
    tensorflow_formats, savedmodel, safetensors_file, keras_file      register formats
    pth, torch_names, torch_formats      PyTorch's files, names and formats
    torch_layers, torch_resnet      the network in PyTorch
    network      reads a checkpoint of any format as a network under our names
    cli, script_path      what the programs share
    convert, inspect, verify, catalog, download      programs, each with a function of that name
"""
