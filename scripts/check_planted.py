"""Compare a finished run with the duplicates that make_sample_clips.py planted."""

import argparse
from pathlib import Path

import pandas as pd


def check(sample: Path, output: Path) -> tuple[str, bool]:
    """A few lines to read, and whether all planted duplicates were found and nothing else removed."""
    planted = pd.read_parquet(sample / "planted.parquet")
    family = dict(zip(planted["id"], planted["original"], strict=True))
    cluster = pd.read_parquet(output / "clustering/assignments").set_index("id")["cluster_id"]
    together = planted["id"].map(cluster).to_numpy() == planted["original"].map(cluster).to_numpy()
    lines, good = [], True
    for folder in sorted((output / "dedup").glob("eps=*")):
        eps = float(folder.name.removeprefix("eps="))
        removed = pd.read_parquet(folder / "decision=removed") if (folder / "decision=removed").exists() else None
        gone = set() if removed is None else set(zip(removed["id"], removed["max_id"], strict=True))
        due = planted[planted["cosine"] >= 1 - eps]
        pairs = list(zip(due["id"], due["original"], strict=True))
        found = [(a, b) in gone or (b, a) in gone for a, b in pairs]
        apart = len(due) - int(together[due.index].sum())
        false = sum(family.get(a, a) != family.get(b, b) for a, b in gone)
        good &= sum(found) == len(due) and false == 0
        lines.append(
            f"eps {eps:g}: {len(due)} planted duplicates, {apart} of them split by the clusters, {sum(found)} found; "
            f"{false} false removals"
        )
    return "\n".join(lines), good


def main() -> None:
    """Print the comparison; exit 1 when a duplicate was missed or a clip removed for no reason."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("sample", type=Path, help="what make_sample_clips.py wrote")
    p.add_argument("output", type=Path, help="the job's --output-path")
    args = p.parse_args()
    text, good = check(args.sample, args.output)
    print(text)
    if not good:
        raise SystemExit("the run did not do what it should")


if __name__ == "__main__":
    main()
