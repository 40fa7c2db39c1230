"""Fuzz the readers of clip files, guided by coverage (pip install atheris):

    python -m tests.fuzz.fuzz_decode [--corpus FOLDER] [--inputs 200000] [--seed 1] [--keep]

Starts from tests/fuzz/corpus.txt. --keep adds what reached new code to it, for the unit tests to repeat.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["udfs", "pickle", "numpy.lib._format_impl", "numpy.lib.format"]):
    from tests.fuzz.target import check, corpus, keep, seeds

NAMES = ("a.pkl", "a.npy")  # the first byte of an input chooses


def one(data: bytes) -> None:
    if data:
        check(NAMES[data[0] & 1], data[1:])


def main() -> None:
    p = argparse.ArgumentParser(description="Fuzz the readers of clip files.")
    p.add_argument("--corpus", type=Path, help="folder to work in; without it a temporary one")
    p.add_argument("--inputs", type=int, default=200_000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--keep", action="store_true", help="add what reached new code to tests/fuzz/corpus.txt")
    args = p.parse_args()
    folder = args.corpus or Path(tempfile.mkdtemp(prefix="fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    for n, (name, content) in enumerate([*seeds(), *corpus()]):
        (folder / f"seed-{n:04d}").write_bytes(bytes([NAMES.index(name)]) + content)
    if args.keep:  # in a second process: libFuzzer ends the one it runs in
        command = [sys.executable, "-m", "tests.fuzz.fuzz_decode", "--corpus", str(folder)]
        subprocess.run([*command, "--inputs", str(args.inputs), "--seed", str(args.seed)], check=True)  # noqa: S603
        inputs = [path.read_bytes() for path in folder.iterdir() if not path.name.startswith("seed-")]
        keep([*corpus(), *((NAMES[data[0] & 1], data[1:]) for data in inputs if data)])
        return
    flags = [f"-runs={args.inputs}", f"-seed={args.seed}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *flags, str(folder)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
