"""The version, alone in a module: setup.cfg reads it as text, and nothing else has to be imported to know it.

>>> __version__.count(".")
2
"""

__version__ = "0.1.0"
