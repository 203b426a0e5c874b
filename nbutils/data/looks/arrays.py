"""A look at arrays on disk by their headers: no array is read."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from nbutils.data.looks.look import DataLook

__all__ = ["look_at_npy", "look_at_npz", "look_at_safetensors"]

MAX_SHOWN = 12
MAX_HEADER = 64 * 2**20


def look_at_npy(path: Path) -> DataLook:
    """Shape and dtype of one array.

    Raises:
        ValueError: The header is none of NumPy's.
    """
    with path.open("rb") as file:
        shape, dtype = _header(file)
    return _look({path.stem: (shape, dtype)})


def look_at_npz(path: Path) -> DataLook:
    """Names, shapes and dtypes of the arrays in an archive.

    Raises:
        ValueError: It is no archive of arrays.
    """
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    found[name.removesuffix(".npy")] = _header(file)
    except zipfile.BadZipFile as error:
        raise ValueError(f"it is no archive ({error})") from error
    return _look(found)


def look_at_safetensors(path: Path) -> DataLook:
    """Names, shapes and dtypes in the file's own header.

    Raises:
        ValueError: The header cannot be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER, path.stat().st_size):
            raise ValueError("it has no header of safetensors")
        header = json.loads(file.read(length))
    entries = {k: v for k, v in header.items() if k != "__metadata__"}
    return _look(
        {name: (tuple(e["shape"]), str(e["dtype"])) for name, e in entries.items()}
    )


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], str]:
    """Shape and dtype in the header of a ``.npy`` stream."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"its format {version} is not known")
    shape, _, dtype = read(file)
    return tuple(shape), str(dtype)


def _look(arrays: dict[str, tuple[tuple[int, ...], str]]) -> DataLook:
    lengths = {shape[0] for shape, _ in arrays.values() if shape}
    facts = [
        (name, f"{dtype} {list(shape)}")
        for name, (shape, dtype) in list(arrays.items())[:MAX_SHOWN]
    ]
    if len(arrays) > MAX_SHOWN:
        facts.append(("more arrays", f"{len(arrays) - MAX_SHOWN}"))
    remarks: list[str] = []
    if objects := [name for name, (_, dtype) in arrays.items() if dtype == "object"]:
        remarks.append(
            f"{', '.join(objects[:6])} hold Python objects, which only a pickle can "
            "read; save them as numbers."
        )
    rows = next(iter(lengths)) if len(lengths) == 1 else None
    what = "1 array" if len(arrays) == 1 else f"{len(arrays)} arrays"
    title = what if rows is None else f"{what} of {rows:,} rows"
    return DataLook(title=title, facts=facts, remarks=remarks, num_samples=rows)
