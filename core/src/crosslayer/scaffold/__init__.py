"""`crosslayer new`: a package with a working toy of one kind, to be replaced file by file."""

from crosslayer.scaffold.generate import create, render
from crosslayer.scaffold.names import Names, names_for
from crosslayer.scaffold.toys import TOYS, Toy

__all__ = ["TOYS", "Names", "Toy", "create", "names_for", "render"]
