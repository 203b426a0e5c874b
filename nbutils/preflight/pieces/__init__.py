"""Source code of the user's own objects, and rules that read it."""

from nbutils.preflight.pieces.catalogue import read_pieces
from nbutils.preflight.pieces.find import find_pieces
from nbutils.preflight.pieces.hidden import hidden_weights
from nbutils.preflight.pieces.piece import Note, Piece
from nbutils.preflight.pieces.unread import unread_arguments

__all__ = [
    "Note",
    "Piece",
    "find_pieces",
    "hidden_weights",
    "read_pieces",
    "unread_arguments",
]
