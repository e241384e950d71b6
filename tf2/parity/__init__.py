"""Our numbers beside those that google-research/simclr computed: `python -m tf2.parity`.

May import everything but the other commands; nothing imports it.
"""
