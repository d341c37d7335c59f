"""How soon games are learnt: our whole file loop against Stable-Baselines3, in one run, one table, and curves as pictures.

    python benchmarks/learning.py                       every game, every learner, five seeds: an evening on two cores
    python benchmarks/learning.py --game CartPole-v1    one game; --learner, --seeds and --first-seed likewise

Each case has a process of its own, and its result is a line of a file (--results): what is there is not run again, so an
interrupted run goes on, and the table can be printed anew. Peers come with `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from background_training.ipc.process_limits import limit_blas_threads

limit_blas_threads()

import numpy as np  # noqa: E402

from benchmarks import learning_cases  # noqa: E402

CHECKOUT = Path(__file__).resolve().parent.parent
LEARNERS = ("ours", "PPO", "A2C")
RESAMPLES = 10_000

Result = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", action="append", choices=sorted(learning_cases.TARGETS))
    parser.add_argument("--learner", action="append", choices=LEARNERS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("learning_results.jsonl"))
    parser.add_argument("--pictures", type=Path, help="folder for the curves, one picture a game")
    parser.add_argument("--case", nargs=3, metavar=("LEARNER", "GAME", "SEED"), help="run one case and print its result")
    options = parser.parse_args()
    if options.case:
        learner, game, seed = options.case
        print(json.dumps(dataclasses.asdict(_account(learner, game, int(seed)))))
        return
    games, learners = options.game or list(learning_cases.TARGETS), options.learner or list(LEARNERS)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    cases = [(learner, game, seed) for game in games for seed in seeds for learner in learners]
    results = _results(options.results)
    for case in cases:
        if case not in results:
            results[case] = _run(case, options.results)
    _print_table(games, learners, seeds, results)
    if options.pictures:
        for game in games:
            _draw(game, learners, seeds, results, options.pictures)


def _account(learner: str, game: str, seed: int) -> learning_cases.Account:
    if learner == "ours":
        return learning_cases.ours(game, seed)
    from benchmarks import learning_peers

    return learning_peers.peer(learner, game, seed)


def _results(file: Path) -> dict[tuple[str, str, int], Result]:
    if not file.exists():
        return {}
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return {(line["learner"], line["game"], line["seed"]): line for line in lines}


def _run(case: tuple[str, str, int], file: Path) -> Result:
    learner, game, seed = case
    command = [sys.executable, __file__, "--case", learner, game, str(seed)]
    said = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)
    if said.returncode:
        sys.exit(f"{learner} on {game} with seed {seed} failed:\n{said.stderr}")
    result = {"learner": learner, "game": game, "seed": seed, **json.loads(said.stdout.splitlines()[-1])}
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(json.dumps(result) + "\n")
    return result


def _spent(result: Result, column: int) -> float:
    """Env steps (0), CPU seconds (1) or wall seconds (2) until the target; infinity where it was never reached."""
    return float(result["curve"][-1][column]) if result["reached"] else float("inf")


def _interval(values: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median; seeds that never got there count as infinity."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (RESAMPLES, len(values))), axis=1)
    low, high = np.sort(medians)[[int(0.025 * RESAMPLES), int(0.975 * RESAMPLES)]]
    return float(low), float(high)


def _print_table(games: list[str], learners: list[str], seeds: range, results: dict[tuple[str, str, int], Result]) -> None:
    print("| game, target | learner | reached | env steps: median (95 %) | CPU s: median (95 %) | wall s: median | steps each |")
    print("|---|---|---|---|---|---|---|")
    for game in games:
        for learner in learners:
            rows = [results[learner, game, seed] for seed in seeds]
            steps, cpu, wall = ([_spent(row, column) for row in rows] for column in range(3))
            reached = sum(row["reached"] for row in rows)
            print(
                f"| {game}, {learning_cases.TARGETS[game].mean_return:g} | {learner} | {reached} of {len(rows)} "
                f"| {_with_interval(steps, 0)} | {_with_interval(cpu, 1)} | {_number(statistics.median(wall), 1)} "
                f"| {', '.join(_number(value, 0) for value in steps)} |"
            )


def _with_interval(values: list[float], digits: int) -> str:
    low, high = _interval(values)
    return f"{_number(statistics.median(values), digits)} ({_number(low, digits)} - {_number(high, digits)})"


def _number(value: float, digits: int) -> str:
    return "never" if value == float("inf") else f"{value:,.{digits}f}"


def _draw(game: str, learners: list[str], seeds: range, results: dict[tuple[str, str, int], Result], folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for number, learner in enumerate(learners):
        for seed in seeds:
            curve = np.array(results[learner, game, seed]["curve"])
            label = {"ours": "ours"}.get(learner, f"SB3 {learner}") if seed == seeds[0] else None
            axes.plot(curve[:, 0], curve[:, 3], color=f"C{number}", alpha=0.7, linewidth=1.2, label=label)
    axes.axhline(learning_cases.TARGETS[game].mean_return, color="grey", linestyle=":", label="target")
    axes.set(xscale="log", xlabel="env steps", ylabel="greedy mean return", title=f"{game}, {len(seeds)} seeds each")
    axes.legend()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"learning_{game}.png", dpi=110)


if __name__ == "__main__":
    main()
