"""Whether pictures can be drawn here: pygraphviz takes some libraries from the system, which the smallest ones lack."""

import pytest

try:
    import pygraphviz
except ImportError as error:
    pygraphviz, MISSING = None, str(error)
else:
    MISSING = ""

needs_pictures = pytest.mark.skipif(bool(MISSING), reason=f"pictures cannot be drawn here: {MISSING}")
