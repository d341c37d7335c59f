"""Structure-aware fuzzing of every reader: no exception but the project's own, no memory above its bound, no hang.

FUZZ_SECONDS is the time for all readers together; FUZZ_SEED another seed than a random one. The seed is printed and stands
in every failure, and the same seed makes the same files.
"""

from __future__ import annotations

import io
import json
import os
import random
import secrets
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import numpy as np
import pytest
from hostile_zip import DEFLATED, STORED, Member, archive

from background_training import settings_file
from background_training.episodes import episode_file
from background_training.errors import BackgroundTrainingError
from background_training.learner import checkpoint
from background_training.learner import drain as drains
from background_training.paths import Paths
from background_training.records import metrics, pause_file
from background_training.records import status as statuses
from background_training.records.ledger import Ledger
from background_training.runs.run_state import RunSpec, RunState, RunStateFile
from background_training.settings import LimitSettings
from background_training.storage import file_lock, model_store

SECONDS = float(os.environ.get("FUZZ_SECONDS", "4"))
RANDOM_SEED = int(os.environ.get("FUZZ_SEED", secrets.randbelow(2**32)))
FIXED_SEED = 20_261_130
LIMITS = LimitSettings(max_memory_bytes=3_000_000, max_steps=10_000)
HANG_SECONDS = 5.0

JSON_VALUES = [
    "null", "1", "-1", "0.5", "1e400", "NaN", "-Infinity", '"x"', '""', "[]", "{}", "[[]]", "true", "9" * 30, "9" * 5000,
    '"\\ud800"', '"\\u0000"', "[1,2]", '["a","b"]', '{"kind":1}', '{"kind":"discrete","count":3}',
    '{"kind":"box","low":[0],"high":[1]}',
    '{"kind":"box","low":[NaN],"high":[Infinity]}', '{"kind":"multi_discrete","sizes":[2,1e9]}',
    '{"kind":"multi_binary","size":true}',
    '{"kind":["box"]}', '{"a":{"b":[1,"c"]}}', "[" * 90 + "]" * 90, "[" * 3000, "9223372036854775807", "1e300", '"2026-01-01"',
]  # fmt: skip
DTYPES = ["<f4", ">f8", "<f2", "<i8", "|i1", "|u1", "<u8", "|b1", "<U5", "|S1", "|S7", "<c8", "<M8[s]", "<f16"]
PIECES = [b"\xff", b"9", b"(", b"'", b"\0", b"-", b"e", b",", b"1" * 20, b"0x", b"_", b"L", b"{", b"\n", b"\x80", "é".encode()]


class Fuzzer:
    """Makes files that are nearly sound, from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.rng = np.random.default_rng(seed)

    def npy(self, value: Any) -> bytes:
        file = io.BytesIO()
        np.lib.format.write_array(file, np.asarray(value), allow_pickle=False)
        return file.getvalue()

    def mutated(self, data: bytes, within: int = 128) -> bytes:
        """A few bytes changed, taken out or put in, mostly near the beginning."""
        made, pick = bytearray(data), self.random
        for _ in range(pick.choice([1, 1, 1, 2, 5])):
            reach = min(len(made), within) if pick.random() < 0.7 else len(made)
            if not reach:
                break
            place, way = pick.randrange(reach), pick.randrange(5)
            if way == 0:
                made[place] = pick.randrange(256)
            elif way == 1:
                made[place] ^= 1 << pick.randrange(8)
            elif way == 2:
                del made[place : place + pick.randint(1, 8)]
            elif way == 3:
                made[place:place] = pick.choice(PIECES)
            else:
                del made[place:]
        return bytes(made)

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        with np.errstate(all="ignore"):
            values = self.rng.normal(size=shape) * self.random.choice([0, 1, 3, 1e5, 1e30])
            return values.astype(self.random.choice(DTYPES))

    def json(self, base: dict[str, Any]) -> bytes:
        """A JSON object some of whose values are others, at any depth; now and then with bytes changed."""
        pick = self.random
        if pick.random() < 0.08:
            return pick.choice(JSON_VALUES).encode()

        def text(value: Any, chance: float) -> str:
            if pick.random() < chance:
                return pick.choice(JSON_VALUES)
            if isinstance(value, dict):
                kept = [key for key in value if pick.random() > chance / 3]
                return "{" + ",".join(f"{json.dumps(key)}:{text(value[key], chance)}" for key in kept) + "}"
            if isinstance(value, list):
                return "[" + ",".join(text(item, chance) for item in value) + "]"
            return json.dumps(value)

        made = ("{" + ",".join(f"{json.dumps(key)}:{text(value, 0.15)}" for key, value in base.items()) + "}").encode()
        return self.mutated(made, len(made)) if pick.random() < 0.2 else made

    def npz(self, arrays: dict[str, Any]) -> bytes:
        """An archive of which an array, a header, a member's entry or some bytes at the end are wrong."""
        pick = self.random
        arrays = dict(arrays)
        if arrays and pick.random() < 0.4:
            name = pick.choice(list(arrays))
            shape = np.asarray(arrays[name]).shape
            shapes = [shape, (), (1,), (0,), (*shape, 1), (3,), (2, 2), (7, 0), shape[::-1]]
            arrays[name] = self.array(pick.choice(shapes))
        if arrays and pick.random() < 0.1:
            arrays.pop(pick.choice(list(arrays)))
        members = [
            Member(f"{name}.npy".encode(), self.npy(value), pick.choice([STORED, DEFLATED])) for name, value in arrays.items()
        ]
        if pick.random() < 0.3:
            members.insert(
                pick.randrange(len(members) + 1), Member(pick.choice([b"a/", "ü.npy".encode(), b"\xff", b"x" * 300]), b"?")
            )
        if members and pick.random() < 0.5:
            index = pick.randrange(len(members))
            chosen = members[index]
            wrong: dict[str, Any] = pick.choice(
                [
                    {"content": self.mutated(chosen.content)},
                    {"content": self.mutated(chosen.content)},
                    {"content": self.mutated(chosen.content)},
                    {"declared_bytes": pick.choice([0, 1, 2**31, 2**32 - 1, len(chosen.content) + 1])},
                    {"packed_bytes": pick.choice([0, 1, 2**31, 2**32 - 1])},
                    {"offset": pick.choice([0, 1, 2**31, 2**32 - 1])},
                    {"extra": self.rng.bytes(pick.randrange(40)), "declared_bytes": 2**32 - 1},
                    {"flags": pick.randrange(65536)},
                    {"method": pick.randrange(100)},
                    {"local_name": b"x"},
                    {"crc": 1},
                ]
            )
            members[index] = Member(**(chosen.__dict__ | wrong))
        data = archive(members)
        if pick.random() < 0.25:
            changed = bytearray(data)
            for _ in range(3):
                changed[len(changed) - 1 - pick.randrange(min(len(changed), 400))] = pick.randrange(256)
            data = bytes(changed)
        if pick.random() < 0.05:
            data = self.mutated(data, len(data))
        return data + pick.choice([b"", b"", b"", b"\0" * 50, b"PK\5\6"])

    def episode(self) -> bytes:
        pick = self.random
        steps = pick.choice([1, 2, 7, 20])
        arrays = episodes.full_arrays(pick.randrange(1000), steps)
        for name in list(arrays):
            if name not in ("states", "actions", "rewards") and pick.random() < 0.4:
                arrays.pop(name)
        if pick.random() < 0.6:
            meta = {
                "result": "Victory",
                "action_count": 3,
                "action_names": ["a", "b", "c"],
                "action_space": {"kind": "discrete", "count": 3},
            }
            arrays["meta"] = np.array(self.json(meta).decode("utf-8", "replace").replace("\0", ""))
        if pick.random() < 0.2:
            arrays["states"] = arrays["states"].astype(pick.choice(["u1", "f8", "i2"]))
        return self.npz(arrays)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A root in which two versions were trained, with all files that a learner writes."""
    paths = Paths(tmp_path_factory.mktemp("played"))
    for folder in paths.folders:
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        episodes.write(paths.buffer, f"game_{number}.npz", number)
    drains.drain(learner_runs.settings(paths.root, batch_size=2, learning={"hidden_size": 4}), lambda event, **facts: None)
    return paths


Target = tuple[str, Callable[[Fuzzer], bytes], Callable[[bytes], object], int]


def targets(played: Paths, paths: Paths) -> list[Target]:
    """Name, maker, reader, and the memory that one file may take beside itself."""
    model = dict(np.load(io.BytesIO(played.model.read_bytes()), allow_pickle=False))
    manifest = json.loads(str(model["manifest"]))
    ledger = played.ledger.read_bytes().splitlines()
    status = json.loads(played.status.read_bytes()) if played.status.exists() else {"schema": 1, "state": "idle", "stats": {}}
    run = json.loads(RunState.new(RunSpec("CartPole-v1", 1, 10, 2, True)).to_bytes())
    settings = {
        "learner": {"batch_size": 5, "durability": "fast"},
        "learning": {"hidden_size": 8, "gamma": 0.9},
        "limits": {"max_steps": 10},
    }
    records = played.metrics.read_bytes()

    def through(path: Path, read: Callable[[], object]) -> Callable[[bytes], object]:
        def reader(data: bytes) -> object:
            path.write_bytes(data)
            return read()

        return reader

    def make_model(fuzzer: Fuzzer) -> bytes:
        arrays = dict(model)
        if fuzzer.random.random() < 0.5:
            arrays["manifest"] = np.array(fuzzer.json(manifest).decode("utf-8", "replace").replace("\0", ""))
        return fuzzer.npz(arrays)

    def make_ledger(fuzzer: Fuzzer) -> bytes:
        lines = [fuzzer.json(json.loads(line)) if fuzzer.random.random() < 0.3 else line for line in ledger]
        return b"\n".join(lines) + fuzzer.random.choice([b"\n", b"\n", b"", b"\xff\n"])

    def read_run() -> object:
        with RunStateFile(paths) as keeper:
            state = keeper.interrupted()
            return state and (
                state.is_over,
                state.progress,
                state.to_bytes(),
                next(state.played.remaining(state.spec.games), None),
            )

    config = paths.root / "settings.yaml"

    def loaded() -> object:
        return settings_file.load(config, environment={})

    def pause(fuzzer: Fuzzer) -> bytes:
        return fuzzer.json({"since": 1.5, "by": "me", "until": None})

    def card(fuzzer: Fuzzer) -> bytes:
        return fuzzer.json({"pid": 1, "command": "x", "since": "now"})

    def record(fuzzer: Fuzzer) -> bytes:
        return fuzzer.mutated(records, len(records))

    model_bytes = 4 * len(played.model.read_bytes()) + 3_000_000
    return [
        ("episode", Fuzzer.episode, lambda data: episode_file.read(data, LIMITS), LIMITS.max_memory_bytes + 500_000),
        ("model for a game", make_model, lambda data: model_store.unpack(data, "m", model_store.POLICY_KEYS), model_bytes),
        ("model for a learner", make_model, lambda data: checkpoint.load(data, "m"), model_bytes),
        ("ledger", make_ledger, through(paths.ledger, lambda: Ledger(paths.ledger, durable=False)), 3_000_000),
        ("status", lambda fuzzer: fuzzer.json(status), through(paths.status, lambda: statuses.read(paths)), 3_000_000),
        ("run state", lambda fuzzer: fuzzer.json(run), through(paths.run_state, read_run), 3_000_000),
        ("settings", lambda fuzzer: fuzzer.json(settings), through(config, loaded), 10_000_000),
        ("pause", pause, through(paths.paused, lambda: pause_file.read(paths)), 3_000_000),
        ("card", card, through(paths.data / ".learner.json", lambda: file_lock.read_card(paths)), 3_000_000),
        ("metrics", record, through(paths.metrics, lambda: metrics.read(paths)), 3_000_000),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [FIXED_SEED, RANDOM_SEED], ids=["fixed", "random"])
@pytest.mark.filterwarnings("ignore")
def test_no_reader_raises_anything_but_our_own_takes_too_much_or_hangs(seed: int, played: Paths, paths: Paths):
    """Half of FUZZ_SECONDS for each of a fixed and a random seed, in turns through all readers."""
    print(f"FUZZ_SEED={seed}")
    fuzzer, found, count = Fuzzer(seed), targets(played, paths), 0
    faults: dict[str, str] = {}
    sound: dict[str, int] = dict.fromkeys((name for name, *_ in found), 0)
    end = time.monotonic() + SECONDS / 2
    while time.monotonic() < end or count < 5:
        count += 1
        for name, make, read, most in found:
            data = make(fuzzer)
            measured = count % 5 == 0
            started = time.thread_time()
            if measured:
                tracemalloc.start()
            try:
                read(data)
                sound[name] += 1
            except BackgroundTrainingError as error:
                str(error)
            except Exception as error:  # noqa: BLE001  # what must not happen, told of with its file
                faults.setdefault(f"{name}: {type(error).__name__}: {str(error)[:150]}", f"{data[:1500]!r}")
            peak = tracemalloc.get_traced_memory()[1] if measured else 0
            if measured:
                tracemalloc.stop()
            if peak > most + 2 * len(data):
                faults.setdefault(f"{name}: {peak} bytes of memory", f"{data[:1500]!r}")
            if time.thread_time() - started > HANG_SECONDS:
                faults.setdefault(f"{name}: {time.thread_time() - started:.1f} s", f"{data[:1500]!r}")
    print(f"{count} files for each of {len(found)} readers; taken: {sound}")
    assert not faults, f"FUZZ_SEED={seed}, file {count}:\n" + "\n".join(f"{fault}\n    {data}" for fault, data in faults.items())
