import argparse
from pathlib import Path

import pytest

from jobs.dedup import main
from jobs.errors import UsageError
from jobs.options import eps_text, parse, parser
from udfs.ranking import RankColumn

PATHS = ["--input-embeddings-path", "in", "--output-path", "out"]


def test_the_flags_of_the_guide_are_taken() -> None:
    flags = "--n-clusters 1000 --eps-thresholds 0.01 0.001 --eps-to-extract 0.01 --which-to-keep hard"
    options = parse([*PATHS, *flags.split(), "--files-per-partition", "1000"])
    assert options.eps_thresholds == (0.01, 0.001)
    assert options.eps_to_extract == 0.01
    assert options.which_to_keep == "hard"
    assert (options.n_clusters, options.files_per_partition) == (1000, 1000)


def test_the_defaults_find_every_pair_with_clusters_of_its_own_choice() -> None:
    options = parse(PATHS)
    assert (options.n_clusters, options.match_scope) == (None, "all")
    assert options.fingerprint()["n_clusters"] == "auto"


def test_easy_is_soft_and_a_threshold_counts_once() -> None:
    options = parse([*PATHS, "--which-to-keep", "easy", "--eps-thresholds", "0.1", "0.10", "0"])
    assert options.which_to_keep == "soft"
    assert options.eps_thresholds == (0.1, 0.0)


def test_rank_by_columns() -> None:
    options = parse([*PATHS, "--rank-by", "quality:desc,a:b:asc"])
    assert options.rank_by == (RankColumn("quality", True), RankColumn("a:b", False))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eps-thresholds", "1.5"], "--eps-thresholds: 1.5 is not a number from 0 to 1"),
        (["--eps-thresholds", "-0.1"], "--eps-thresholds: -0.1 is not a number from 0 to 1"),
        (["--eps-thresholds", "nan"], "--eps-thresholds: nan is not a number from 0 to 1"),
        (["--eps-thresholds", "x"], "--eps-thresholds: 'x' is not a number from 0 to 1"),
        (["--eps-to-extract", "0.5"], "--eps-to-extract: 0.5 is not one of the --eps-thresholds (0.01 0.001)"),
        (["--n-clusters", "0"], "--n-clusters: 0 is not a whole number of at least 1"),
        (["--n-clusters", "2.5"], "--n-clusters: '2.5' is not a whole number"),
        (["--max-guest-copies", "-1"], "--max-guest-copies: -1 is not a number of at least 0"),
        (["--max-block-rows", "0"], "--max-block-rows: 0 is not a whole number of at least 1"),
        (["--files-per-partition", "-1"], "--files-per-partition"),
        (["--which-to-keep", "best"], "--which-to-keep: invalid choice: 'best'"),
        (["--rank-by", "quality"], "--rank-by: 'quality' is not COLUMN:asc or COLUMN:desc"),
        (["--seed", "-1"], "--seed"),
        (["--max-rejected-fraction", "7"], "--max-rejected-fraction: 7 is not a number from 0 to 1"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
)
def test_a_wrong_flag_is_named_in_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError) as error:
        parse([*PATHS, *flags])
    assert message in str(error.value)
    with pytest.raises(SystemExit) as stop:
        main([*PATHS, *flags])
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("semdedup: error: ")
    assert shown.count("\n") == 1


def test_missing_paths_are_named() -> None:
    with pytest.raises(UsageError, match="--input-embeddings-path, --output-path"):
        parse([])


@pytest.mark.parametrize(("eps", "text"), [(0.01, "0.01"), (1e-5, "0.00001"), (0.0, "0"), (1.0, "1"), (0.1, "0.1")])
def test_eps_is_written_in_plain_decimals(eps: float, text: str) -> None:
    assert eps_text(eps) == text


def test_the_readme_lists_every_flag_with_its_default() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    flags = readme.split("\n## Flags\n")[1].split("\n## ")[0]
    rows = {line.split("`")[1].split()[0]: line for line in flags.splitlines() if line.startswith("| `--")}
    actions = {a.option_strings[-1]: a for a in parser()._actions if a.dest != "help"}
    assert set(rows) == set(actions)
    for flag, action in actions.items():
        if type(action.default) in (int, float, str) and action.default != argparse.SUPPRESS:
            assert f"`{action.default}`" in rows[flag], flag
