"""What "auto" stands for: settings that fit the images, the machine and the time; a run's memory.

`rules` and its arithmetic import no TensorFlow; `choices` times a few steps. It may import
what trains (training, loop, data, model), nothing that runs a whole stage.
"""
