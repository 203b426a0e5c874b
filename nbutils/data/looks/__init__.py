"""A first look at data on disk: what it is, how much, and what stands out.

A look is bounded in files and seconds. It reads a few files of many, changes nothing,
and says where it stopped.
"""

from nbutils.data.looks.files import look_at
from nbutils.data.looks.look import DataLook, Thumbnail, find_path

__all__ = ["DataLook", "Thumbnail", "find_path", "look_at"]
