"""How the guard stands up to bad models and poisoned batches, and what honest learning pays for it: a table.

    python benchmarks/guard.py [--quick] [--plants 13] [--kinds ...] [--honest 5]

Everything is real: CartPole-v1 is played with RLAgent, episodes go as files into a root, a BackgroundParallelLearner trains on
them. A *plant* is made in a run that has learnt the game: the model file is replaced as another program would, or ten
episodes with altered rewards are dropped at once. Then the games go on for one evaluation (20 episodes) at most, and
another ten show how well the published model plays, by the game's own account. A plant stays when nothing was refused or
rolled back, and these ten return less on average than the guard's bound.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from background_training.ipc.process_limits import limit_blas_threads

limit_blas_threads()

import gymnasium  # noqa: E402
import numpy as np  # noqa: E402

from background_training import BackgroundParallelLearner  # noqa: E402
from background_training.agent import RLAgent  # noqa: E402
from background_training.episodes import episode_file  # noqa: E402
from background_training.learner.regression_guard import GuardEvidence  # noqa: E402
from background_training.records import ledger_lines  # noqa: E402
from background_training.records.ledger_lines import PUBLISHED, ROLLED_BACK  # noqa: E402
from background_training.settings import Settings  # noqa: E402
from background_training.storage import atomic_files, model_store  # noqa: E402

EVALUATION = 20
AFTERWARDS = 10
POISONED = 10
MODELS = ("model: NaN", "model: noise", "model: sign flipped", "model: weights x 1e6")
BATCHES = ("batch: NaN", "batch: noise", "batch: sign flipped", "batch: rewards x 1e6")


class Run:
    """A root with its learner, and two games that are played in turn."""

    def __init__(self, root, seed, enabled=True):
        sections = {"learner": {"verbose": False, "durability": "fast"}, "governor": {"enabled": False}}
        sections |= {"guard": {"enabled": enabled}, "learning": {"seed": seed}}
        self.settings = Settings(root=root).with_values("benchmark", **sections)
        self.paths = self.settings.paths
        self.learner = BackgroundParallelLearner(settings=self.settings)
        self.rng = np.random.default_rng(seed)
        self.games = [gymnasium.make("CartPole-v1", disable_env_checker=True) for _ in range(2)]
        self.agents = []
        self.delivered = 0
        self.begun = seed * 1_000_003

    def __enter__(self):
        self.learner.start()
        self.agents = [
            RLAgent(root=self.paths.root, action_names=["left", "right"], seed=int(s)) for s in self.rng.integers(1e6, size=2)
        ]
        return self

    def __exit__(self, *_):
        self.learner.stop()

    def play(self, number, alter=None):
        """Play one game, deposit it, with other rewards if `alter` says so; return what it really returned."""
        game, agent = self.games[number], self.agents[number]
        self.begun += 1
        state, over, total = game.reset(seed=self.begun)[0], False, 0.0
        while not over:
            action = agent.get_action(state)[0]
            state, reward, terminated, truncated, _ = game.step(action)
            agent.update_reward(reward)
            total += reward
            over = terminated or truncated
        if alter is None:
            agent.end_episode()
        else:
            path = self.paths.root / "poisoned.npz"
            agent.save_experience_data(path)
            agent.end_episode(save_experience=False)
            arrays = episode_file.read(path.read_bytes(), self.settings.limits).as_arrays()
            arrays["rewards"] = alter(np.asarray(arrays["rewards"]))
            with open(self.paths.buffer / f".{self.begun}.part", "wb") as file:
                np.savez(file, **arrays)
            (self.paths.buffer / f".{self.begun}.part").rename(self.paths.buffer / f"game_{self.begun:012d}.npz")
        self.delivered += 1
        agent.refresh()
        return total

    def wait(self):
        """Until every delivered episode has met its fate."""
        deadline = time.monotonic() + 60
        while self._fates() < self.delivered:
            if time.monotonic() > deadline or not self.learner.running:
                raise TimeoutError(f"{self._fates()} of {self.delivered} episodes: {self.learner.get_stats()}")
            time.sleep(0.002)

    def _fates(self):
        stats = self.learner.get_stats()
        return sum(stats[key] for key in ("files_processed", "files_rejected", "files_skipped_old", "files_duplicate"))

    def both(self):
        returns = [self.play(0), self.play(1)]
        self.wait()
        return returns

    def lines(self):
        return list(ledger_lines.read_lines(self.paths.ledger))

    def bound(self):
        """What the guard holds the returns against; for a run without one, what it would."""
        watch = GuardEvidence(dataclasses.replace(self.settings.guard))
        for line in self.lines():
            watch.add(line)
        bound = watch.bound()
        return bound.needed if bound else None

    def learn(self, most):
        """Play until the game is mastered, or `most` games, and one evaluation more, so that the guard knows it; the returns."""
        returns = []
        while len(returns) < most and (len(returns) < 40 or statistics.fmean(returns[-EVALUATION:]) < 450):
            returns += self.both()
        return returns + [value for _ in range(EVALUATION // 2) for value in self.both()]


def altered_model(kind, data, rng):
    """The bytes of a model as another program would leave it."""
    model = model_store.unpack(data, "model")
    arrays = dict(model.arrays)
    for name in (*model_store.POLICY_KEYS, "actor_weights"):
        values = arrays[name]
        if kind == "model: NaN":
            arrays[name] = np.full_like(values, np.nan)
        elif kind == "model: noise":
            arrays[name] = rng.normal(0.0, max(float(values.std()), 0.1), values.shape).astype(values.dtype)
        elif kind == "model: weights x 1e6":
            arrays[name] = (values * 1e6).astype(values.dtype)
        elif name in ("W3", "b3"):
            arrays[name] = -values
    if kind == "model: sign flipped":
        last = arrays["W3"].size + arrays["b3"].size
        arrays["actor_weights"] = np.concatenate([arrays["actor_weights"][:-last], -arrays["actor_weights"][-last:]])
    manifest = {key: value for key, value in model.manifest.items() if key != "commit"}
    return model_store.pack(arrays, model.version, manifest)


def altered_rewards(kind, rng):
    return {
        "batch: NaN": lambda rewards: np.full_like(rewards, np.nan),
        "batch: noise": lambda rewards: rng.normal(0.0, max(float(np.abs(rewards).max()), 1.0), rewards.shape).astype(
            rewards.dtype
        ),
        "batch: sign flipped": lambda rewards: -rewards,
        "batch: rewards x 1e6": lambda rewards: rewards * rewards.dtype.type(1e6),
    }[kind]


def plant(run, kind):
    """(what became of it, episodes until then, mean return of the model afterwards)."""
    before = len(run.lines())
    if kind in MODELS:
        atomic_files.write_atomically(
            run.paths.model, altered_model(kind, model_store.read_bytes(run.paths.model), run.rng), durable=False
        )
        for agent in run.agents:
            agent.refresh()
    else:
        for number in range(POISONED):
            run.play(number % 2, altered_rewards(kind, run.rng))
        run.wait()
    bound, played, fate = run.bound(), 0, ""
    while not fate and played < EVALUATION:
        fate = fate_of(kind, run.lines()[before:])
        if not fate:
            run.both()
            played += 2
    fate = fate or fate_of(kind, run.lines()[before:])
    for agent in run.agents:
        agent.refresh()
    afterwards = [value for _ in range(AFTERWARDS // 2) for value in run.both()]
    mean = statistics.fmean(afterwards)
    return fate or ("not worse" if bound is None or mean >= bound else "STAYED"), played, mean


def fate_of(kind, lines):
    if any(line["fate"] == ROLLED_BACK for line in lines):
        return "rolled back"
    if kind in MODELS:
        taken = any(line["fate"] == PUBLISHED for line in lines)
        return "" if taken or not any(line["fate"] == "trained" for line in lines) else "never played"
    poisoned = lines[:POISONED] if kind in BATCHES else []
    if poisoned and all(line["fate"] == "rejected" or line.get("refused") for line in poisoned):
        return "refused"
    return ""


def undone(lines):
    """Versions that a rollback has undone."""
    count = 0
    for index, line in enumerate(lines):
        if line["fate"] == ROLLED_BACK:
            best = int(line["reason"].partition("rollback to version ")[2].partition(",")[0])
            count += len({other["seq"] for other in lines[:index] if other["fate"] == "trained" and best < other["seq"]})
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plants", type=int, default=13, help="plants of each of the eight kinds")
    parser.add_argument("--kinds", nargs="*", default=[*MODELS, *BATCHES], choices=[*MODELS, *BATCHES])
    parser.add_argument("--honest", type=int, default=5, metavar="N", help="honest runs of 100 updates from the first game on")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--off", action="store_true", help="without the guard, to compare")
    parser.add_argument(
        "--quick", action="store_true", help="one plant in a hardly trained model: shows that it works, not how well"
    )
    options = parser.parse_args()
    if options.quick:
        options.plants, options.honest, options.kinds = 1, 0, ["model: sign flipped"]
    stayed = 0
    if options.kinds:
        told = ("refused", "never played", "rolled back", "not worse", "stayed")
        print(f"| planted | of | {' | '.join(told)} | episodes to the rollback | return afterwards |")
        print("|---|---|---|---|---|---|---|---|---|")
    for index, kind in enumerate(options.kinds):
        with tempfile.TemporaryDirectory() as folder, Run(Path(folder), options.first_seed + index, not options.off) as run:
            run.learn(60 if options.quick else 400)
            fates, took, means = Counter(), [], []
            for _ in range(options.plants):
                fate, episodes, mean = plant(run, kind)
                fates[fate] += 1
                took += [episodes] if fate == "rolled back" else []
                means.append(mean)
                if fate in ("STAYED", "not worse"):
                    run.learn(EVALUATION * 5)
        stayed += fates["STAYED"]
        shown = " | ".join(str(fates[fate]) for fate in ("refused", "never played", "rolled back", "not worse", "STAYED"))
        longest = f"{statistics.median(took):g}, at most {max(took)}" if took else "-"
        shown += f" | {longest} | {statistics.median(means):.0f} (least {min(means):.0f}) |"
        print(f"| {kind} | {options.plants} | {shown}", flush=True)
    for seed in range(options.first_seed, options.first_seed + options.honest):
        with tempfile.TemporaryDirectory() as folder, Run(Path(folder), seed, not options.off) as run:
            returns = [value for _ in range(100) for value in run.both()]
            lines = run.lines()
        trained = len({line["seq"] for line in lines if line["fate"] == "trained"})
        rollbacks = [line["seq"] for line in lines if line["fate"] == ROLLED_BACK]
        steps = next((int(sum(returns[:n])) for n in range(20, 201) if statistics.fmean(returns[n - 20 : n]) >= 450), None)
        tail = f"steps to a mean of 450 {steps}, mean of the last 40 {statistics.fmean(returns[-40:]):.0f}"
        print(f"honest, seed {seed}: {trained} updates, {undone(lines)} undone in rollbacks at {rollbacks}; {tail}", flush=True)
    return 1 if stayed else 0


if __name__ == "__main__":
    sys.exit(main())
