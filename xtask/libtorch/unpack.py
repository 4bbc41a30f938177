"""Unpacks what a CPU build links against out of a wheel of torch, each file checked against the wheel's own hashes.

usage: unpack.py WHEEL FOLDER
Writes FOLDER/torch/include/..., FOLDER/torch/lib/{libc10.so,libtorch_cpu.so,libgomp.so.1} and prints torch's version.
"""

import base64
import csv
import hashlib
import io
import os
import re
import sys
import zipfile

LIBRARIES = {f"torch/lib/{name}" for name in ("libc10.so", "libtorch_cpu.so", "libgomp.so.1")}
PIECE_BYTES = 4 << 20

wheel, folder = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
    records = [name for name in names if re.fullmatch(r"torch-[^/]+\.dist-info/RECORD", name)]
    if len(records) != 1:
        sys.exit(f"{wheel} is no wheel of torch")
    rows = csv.reader(io.TextIOWrapper(archive.open(records[0]), "utf-8"))
    hashes = {row[0]: row[1] for row in rows}
    missing = LIBRARIES.difference(names)
    if missing:
        sys.exit(f"{wheel} has no {', '.join(sorted(missing))}; a wheel of torch for Linux is expected")
    for name in names:
        wanted = name in LIBRARIES or name.startswith("torch/include/")
        if not wanted or name.endswith("/"):
            continue
        path = os.path.normpath(os.path.join(folder, name))
        if not path.startswith(os.path.join(os.path.normpath(folder), "torch", "")):
            sys.exit(f"{wheel}: {name} leads out of the folder")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        digest = hashlib.sha256()
        with archive.open(name) as source, open(path, "wb") as target:
            while piece := source.read(PIECE_BYTES):
                digest.update(piece)
                target.write(piece)
        found = "sha256=" + base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")
        if hashes.get(name) != found:
            sys.exit(f"{wheel}: {name} has {found}, but the wheel's RECORD says {hashes.get(name)}; it is damaged")
    version = re.search(r"^__version__ = '([^']+)'", archive.read("torch/version.py").decode(), re.M)
print(version[1])
