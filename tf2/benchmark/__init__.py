"""How fast it is here, and what a training will take elsewhere: `python -m tf2.benchmark`.

May import everything but the other commands; nothing imports it.
"""
