"""A seeded generator of hostile files: what a broken disk, a careless program or an enemy drops into the buffer."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import episodes
import numpy as np
from episodes import ACTIONS, WIDTH
from hostile_zip import DEFLATED, Member, archive, array, deflated, header, npy, zeros_crc, zeros_deflated

MAX_MEMORY_BYTES = 20_000_000
"""The limit the generator aims at: its bombs are a little above it, or far."""

STEPS = 12
BAD_ZIP, BAD_HEADER, LYING, TOO_LARGE = "bad-zip", "bad-header", "lying-header", "too-large"
WRONG_DTYPE, WRONG_SHAPE, NOT_FINITE, ABSURD = "wrong-dtype", "wrong-shape", "not-finite", "absurd-magnitude"
OUT_OF_RANGE, BAD_META, MISSING = "action-out-of-range", "bad-meta", "missing-array"


@dataclass(frozen=True)
class Hostile:
    """One hostile thing: under which name it lies there, how it comes there, and why it must be refused.

    reason: the reason of the EpisodeError, or those of which one must be it; "" where there are no bytes to judge, as the name
        leads to no regular file.
    """

    kind: str
    reason: str | tuple[str, ...]
    data: bytes = b""
    name: str = ""
    make: Callable[[Path], None] | None = None

    @property
    def reasons(self) -> tuple[str, ...]:
        return (self.reason,) if isinstance(self.reason, str) else self.reason

    @property
    def file_name(self) -> str:
        return self.name or f"bad {self.kind}.npz".replace("/", "_")

    def place(self, folder: Path) -> Path:
        path = folder / self.file_name
        if self.make is not None:
            self.make(path)
        else:
            path.write_bytes(self.data)
        return path


def all_kinds(seed: int = 0) -> list[Hostile]:
    """Every kind once, with numbers drawn from the seed."""
    rng = np.random.default_rng(seed)
    kinds = [*_more(rng), *_bytes(rng), *_arrays(rng), *_dtypes(rng), *_headers(rng), *_archives(rng), *_texts(rng), *_names(rng)]
    return kinds + (_special_files() if os.name == "posix" else [])


def _saved(rng: np.random.Generator, **more: Any) -> bytes:
    """An episode that is sound but for `more`, as np.savez writes it; the seed makes it an episode of its own."""
    file = io.BytesIO()
    np.savez(file, **episodes.arrays(int(rng.integers(1 << 30)), STEPS, **more))
    return file.getvalue()


def _members(rng: np.random.Generator, **more: bytes | None) -> list[Member]:
    """The members of a sound episode; `more` replaces a member's content, None leaves it out."""
    contents: dict[str, bytes | None] = {}
    for name, value in episodes.arrays(int(rng.integers(1 << 30)), STEPS).items():
        file = io.BytesIO()
        np.save(file, value)
        contents[name] = file.getvalue()
    return [Member(f"{name}.npy".encode(), content) for name, content in (contents | more).items() if content is not None]


def _more(rng: np.random.Generator) -> Iterator[Hostile]:
    """Each array of the format, wrong in each way in which it can be."""
    states = next(member for member in _members(rng) if member.name == b"states.npy")
    too_long = {"packed_bytes": 10**7, "declared_bytes": 10**7}
    for name in ("states", "actions", "rewards"):
        yield Hostile(f"{name} left out", MISSING, _saved(rng, **{name: None}))
        yield Hostile(f"{name} under another name", MISSING, archive(_renamed(rng, f"{name}.npy", f"{name}s.npy")))
        yield Hostile(f"{name} in a folder", MISSING, archive(_renamed(rng, f"{name}.npy", f"episode/{name}.npy")))
        yield Hostile(f"{name} in capital letters", MISSING, archive(_renamed(rng, f"{name}.npy", f"{name.upper()}.npy")))
        yield Hostile(f"{name} without a suffix", MISSING, archive(_renamed(rng, f"{name}.npy", name)))
        yield Hostile(f"{name} encrypted", BAD_ZIP, archive(_changed(rng, name, flags=1)))
        yield Hostile(f"{name} with a wrong checksum", "bad-checksum", archive(_changed(rng, name, crc=7)))
        yield Hostile(f"{name} packed by another method", BAD_ZIP, archive(_changed(rng, name, method=14)))
        yield Hostile(f"{name} twice", BAD_ZIP, archive([*_members(rng), *_renamed(rng, "", "", name)]))
        yield Hostile(
            f"{name} beyond the end",
            "overlapping-members",
            archive(_changed(rng, name, **too_long)),
        )
        yield Hostile(f"{name} at no place", BAD_ZIP, archive(_changed(rng, name, offset=10**9)))
        yield Hostile(f"{name} a stream of noise", BAD_ZIP, archive(_changed(rng, name, method=DEFLATED, packed=b"\xff" * 90)))
    no_types = (b"'\xfff4'", b"'<f4\x80'", "'<f\u0664'".encode(), b"'<f4", b"'>x9'", b"['<f4']", b"None")
    arrays = {
        "states": np.zeros((STEPS, WIDTH), "f4"), "actions": np.zeros(STEPS, int), "rewards": np.zeros(STEPS, "f4"),
        "log_probs": np.zeros(STEPS, "f4"), "final_state": np.zeros(WIDTH, "f4"), "action_mask": np.ones((STEPS, ACTIONS), bool),
        "policy_version": np.int64(3), "terminated": np.bool_(True), "episode_id": np.array("x"), "meta": np.array("{}"),
    }  # fmt: skip
    for name, value in arrays.items():
        if name not in ("states", "final_state"):  # whose further axes are flattened
            yield Hostile(f"{name} of shape (3, 5)", (WRONG_SHAPE, WRONG_DTYPE), _saved(rng, **{name: np.resize(value, (3, 5))}))
        for dtype in ("c8", "M8[s]", "V4"):
            yield Hostile(f"{name} of type {dtype}", WRONG_DTYPE, _saved(rng, **{name: np.zeros(np.shape(value), dtype)}))
        yield Hostile(f"{name} pickled", "pickled-object", _saved(rng, **{name: np.array([{}], object)}))
        yield Hostile(f"{name} of records", WRONG_DTYPE, _saved(rng, **{name: np.zeros(2, [("a", "f4")])}))
        yield Hostile(f"{name} of no elements", (WRONG_SHAPE, WRONG_DTYPE), _saved(rng, **{name: np.zeros(0)}))
        for spelling, descr in enumerate(no_types):
            text = b"{'descr': %s, 'fortran_order': False, 'shape': (12, 4), }\n" % descr
            broken = archive(_members(rng, **{name: npy(text, bytes(192))}))
            yield Hostile(f"{name} with type {spelling}", (BAD_HEADER, WRONG_DTYPE), broken)
        content = npy(header(f"'{np.asarray(value).dtype.str}'", str(np.shape(value))), bytes(np.asarray(value).nbytes + 1))
        yield Hostile(f"{name} a byte too long", LYING, archive(_members(rng, **{name: content})))
        yield Hostile(f"{name} cut within its header", BAD_HEADER, archive(_members(rng, **{name: content[:20]})))
        yield Hostile(f"{name} of words", BAD_HEADER, archive(_members(rng, **{name: b"no array at all"})))
    for name in ("states", "rewards", "log_probs", "final_state"):
        shape = np.shape(arrays[name])
        for word, number, reason in (
            ("NaN", np.nan, NOT_FINITE),
            ("inf", np.inf, NOT_FINITE),
            ("-1e9", -1e9, ABSURD),
            ("1e300", 1e300, ABSURD),
        ):
            yield Hostile(f"{name} of {word}", reason, _saved(rng, **{name: np.full(shape, number)}))
        yield Hostile(f"{name} of texts", WRONG_DTYPE, _saved(rng, **{name: np.full(shape, "1")}))
    for count in (0, -1, 2.5, 10**9, "3", [3], {}):
        meta = json.dumps({"action_space": {"kind": "discrete", "count": count}})
        yield Hostile(f"{count} actions declared", BAD_META, _saved(rng, meta=np.array(meta)))
    for said in (
        {"kind": "box"},
        {"kind": "box", "low": [1], "high": [0]},
        {"kind": "multi_discrete", "sizes": []},
        {"kind": "?"},
        {"kind": 7},
    ):
        meta = json.dumps({"action_space": said})
        yield Hostile(f"actions of {sorted(said.items())}", BAD_META, _saved(rng, meta=np.array(meta)))
    for word in ("null", "true", "17", '"x"', "{", "{}x", "{'a': 1}", "\ufeff{}", "NaN", '{"a": 1e}'):
        yield Hostile(f"a meta of {word!a}", BAD_META, _saved(rng, meta=np.array(word)))
    for field, wrong in (("count", 4), ("size", 9), ("start", 1), ("position", 7), ("length", 45), ("disks", 3)):
        yield Hostile(
            f"zip64 with another {field}", (BAD_ZIP, "overlapping-members"), zip64_end(archive(_members(rng)), **{field: wrong})
        )
    for shape in (
        "(12LL, 4)",
        "(12, 4",
        "12, 4)",
        "(12 4)",
        "[12, 4]",
        "(1e1, 4)",
        "('12', 4)",
        "(None, 4)",
        "(12, -4)",
        "(12j, 4)",
    ):
        yield Hostile(
            f"a shape of {shape}", BAD_HEADER, archive(_members(rng, states=array("'<f4'", shape, states.content[-192:])))
        )


def _changed(rng: np.random.Generator, name: str, **more: Any) -> list[Member]:
    """The members of a sound episode, one of which is changed."""
    wanted = f"{name}.npy".encode()
    return [Member(**(member.__dict__ | more)) if member.name == wanted else member for member in _members(rng)]


def _renamed(rng: np.random.Generator, former: str, name: str, only: str = "") -> list[Member]:
    """The members of a sound episode, one of which has another name; or one of them only."""
    members = [member for member in _members(rng) if not only or member.name == f"{only}.npy".encode()]
    return [
        Member(**(member.__dict__ | {"name": name.encode()})) if member.name == former.encode() else member for member in members
    ]


def zip64_end(data: bytes, **wrong: int) -> bytes:
    """A small archive with the end records of a large one in front of its own, as some writers always write them."""
    end = data[-22:]
    count, size, start = struct.unpack_from("<HLL", end, 10)
    fields = {"count": count, "size": size, "start": start, "position": len(data) - 22, "length": 44, "disks": 1} | wrong
    record = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", fields["length"], 45, 45, 0, 0, fields["count"], fields["count"], fields["size"], fields["start"]
    )
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, fields["position"], fields["disks"])
    return data[:-22] + record + locator + end


def _bytes(rng: np.random.Generator) -> Iterator[Hostile]:
    whole = _saved(rng)
    yield Hostile("nothing at all", "empty")
    yield Hostile("text", "not-a-zip", b"states,actions,rewards\n1,2,3\n")
    yield Hostile("noise", "not-a-zip", b"\x00" + rng.bytes(5000))
    yield Hostile("a bare npy", "not-a-zip", array("'<f4'", "(2,)", bytes(8)))
    yield Hostile("a pickle", "not-a-zip", b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01x\x94.")
    yield Hostile("something before the archive", "not-a-zip", archive(_members(rng), front=b"#!/bin/sh\n"))
    for length in (1, 3, 4, 29, 31, 200, len(whole) // 3, len(whole) // 2, len(whole) - 22, len(whole) - 21, len(whole) - 1):
        yield Hostile(f"cut after {length} bytes", "unfinished", whole[:length])
    yield Hostile("too much after the archive", "unfinished", whole + bytes(70_000))


def _arrays(rng: np.random.Generator) -> Iterator[Hostile]:
    def states(value: float) -> np.ndarray:
        made = rng.normal(size=(STEPS, WIDTH))
        made[int(rng.integers(STEPS)), int(rng.integers(WIDTH))] = value
        return made

    mask = np.ones((STEPS, ACTIONS), bool)
    mask[3] = False
    yield Hostile("no actions", MISSING, _saved(rng, actions=None))
    yield Hostile("no steps", WRONG_SHAPE, _saved(rng, states=np.zeros((0, 4)), actions=np.zeros(0, int), rewards=np.zeros(0)))
    yield Hostile("states without width", WRONG_SHAPE, _saved(rng, states=np.zeros((STEPS, 0))))
    yield Hostile("states a single number", WRONG_SHAPE, _saved(rng, states=np.float32(1)))
    yield Hostile("one action too few", WRONG_SHAPE, _saved(rng, actions=np.zeros(STEPS - 1, int)))
    yield Hostile("actions in two columns", WRONG_SHAPE, _saved(rng, actions=np.zeros((STEPS, 2), int)))
    yield Hostile("one reward too many", WRONG_SHAPE, _saved(rng, rewards=np.zeros(STEPS + 1)))
    yield Hostile("NaN in states", NOT_FINITE, _saved(rng, states=states(np.nan)))
    yield Hostile("infinity in rewards", NOT_FINITE, _saved(rng, rewards=np.full(STEPS, -np.inf)))
    yield Hostile("a float64 beyond float32", ABSURD, _saved(rng, states=states(1e300)))
    yield Hostile("absurd rewards", ABSURD, _saved(rng, rewards=np.full(STEPS, 1e30, np.float32)))
    yield Hostile("absurd negative states", ABSURD, _saved(rng, states=states(-3e38)))
    yield Hostile("a negative action", OUT_OF_RANGE, _saved(rng, actions=np.full(STEPS, -1)))
    yield Hostile("a huge action", OUT_OF_RANGE, _saved(rng, actions=np.full(STEPS, 2**63 + 5, np.uint64)))
    yield Hostile("an action outside the mask", OUT_OF_RANGE, _saved(rng, actions=np.full(STEPS, 5), action_mask=mask))
    yield Hostile("a mask that forbids what was done", "illegal-action", _saved(rng, action_mask=mask))
    yield Hostile("an additive mask", "bad-mask", _saved(rng, action_mask=np.where(mask, 0.0, -1e8)))
    yield Hostile("a mask with a count", "bad-mask", _saved(rng, action_mask=2 * np.ones((STEPS, ACTIONS), np.int64)))
    yield Hostile("a mask of probabilities", "bad-mask", _saved(rng, action_mask=np.full((STEPS, ACTIONS), 0.25, np.float32)))
    yield Hostile("a mask with NaN", "bad-mask", _saved(rng, action_mask=np.where(mask, 1.0, np.nan)))
    yield Hostile("a mask of text", WRONG_DTYPE, _saved(rng, action_mask=np.full((STEPS, ACTIONS), "yes")))
    yield Hostile("a mask without actions", WRONG_SHAPE, _saved(rng, action_mask=np.ones((STEPS, 0), bool)))
    yield Hostile("log_probs above 0", "bad-log-prob", _saved(rng, log_probs=np.full(STEPS, 0.5)))
    yield Hostile("log_probs NaN", NOT_FINITE, _saved(rng, log_probs=np.full(STEPS, np.nan)))
    yield Hostile("a negative policy version", "bad-version", _saved(rng, policy_version=np.int64(-1)))
    yield Hostile("several policy versions", WRONG_DTYPE, _saved(rng, policy_version=np.arange(3)))
    yield Hostile("terminated a text", WRONG_DTYPE, _saved(rng, terminated=np.array("yes")))
    yield Hostile("a final state of another width", WRONG_SHAPE, _saved(rng, final_state=np.zeros(WIDTH + 1)))
    yield Hostile("a final state of infinities", NOT_FINITE, _saved(rng, final_state=np.full(WIDTH, np.inf)))


def _dtypes(rng: np.random.Generator) -> Iterator[Hostile]:
    objects = np.array([{"state": step} for step in range(STEPS)], object)
    pairs = np.zeros(STEPS, [("x", "<f4"), ("y", "<f4")])
    yield Hostile("pickled states", "pickled-object", _saved(rng, states=objects))
    yield Hostile("a pickled meta", "pickled-object", _saved(rng, meta=np.array({"result": "Victory"}, object)))
    yield Hostile("structured states", WRONG_DTYPE, _saved(rng, states=pairs))
    yield Hostile("complex rewards", WRONG_DTYPE, _saved(rng, rewards=np.zeros(STEPS, complex)))
    yield Hostile("dates for states", WRONG_DTYPE, _saved(rng, states=np.zeros((STEPS, WIDTH), "<M8[s]")))
    yield Hostile("durations for rewards", WRONG_DTYPE, _saved(rng, rewards=np.zeros(STEPS, "<m8[ms]")))
    yield Hostile("raw bytes for states", WRONG_DTYPE, _saved(rng, states=np.zeros((STEPS, WIDTH), "V8")))
    yield Hostile("long doubles", WRONG_DTYPE, archive(_members(rng, states=array("'<f16'", "(12, 4)", bytes(768)))))
    yield Hostile("texts for rewards", WRONG_DTYPE, _saved(rng, rewards=np.array(["1"] * STEPS)))
    yield Hostile("float actions", WRONG_DTYPE, _saved(rng, actions=np.full(STEPS, 0.5)))
    yield Hostile("bool actions", WRONG_DTYPE, _saved(rng, actions=np.ones(STEPS, bool)))
    yield Hostile("bytes for an episode_id", WRONG_DTYPE, _saved(rng, episode_id=np.array(b"\xff\xfe")))


def _headers(rng: np.random.Generator) -> Iterator[Hostile]:
    def with_states(kind: str, reason: str, content: bytes) -> Hostile:
        return Hostile(kind, reason, archive(_members(rng, states=content)))

    payload = bytes(STEPS * WIDTH * 4)
    yield with_states("a shape beyond the data", LYING, array("'<f4'", "(120, 4)", payload))
    yield with_states("a shape short of the data", LYING, array("'<f4'", "(11, 4)", payload))
    yield with_states("a shape of terabytes", TOO_LARGE, array("'<f4'", "(12, 100000000000)", payload))
    yield with_states("a shape beyond 64 bits", TOO_LARGE, array("'<f8'", "(200000000000000,)", payload))
    yield with_states("a product beyond 64 bits", BAD_HEADER, array("'<f8'", "(99999999999999, 99999999999999)", payload))
    yield with_states("nothing times too much", BAD_HEADER, array("'<f4'", "(0, 99999999999999, 99999999999999)", payload))
    yield with_states("an empty array too large to name", BAD_HEADER, array("'<f4'", "(0, 99999999999999, 99999999999999)"))
    yield with_states("a negative shape", BAD_HEADER, array("'<f4'", "(-12, -4)", payload))
    yield with_states("a shape of truth values", BAD_HEADER, array("'<f4'", "(True, 48)", payload))
    yield with_states("a shape of floats", BAD_HEADER, array("'<f4'", "(12.0, 4.0)", payload))
    yield with_states("a shape of no tuple", BAD_HEADER, array("'<f4'", "48", payload))
    yield with_states("a shape of 30 axes", BAD_HEADER, array("'<f4'", "(" + "1, " * 30 + ")", payload))
    yield with_states("an order of no truth value", BAD_HEADER, array("'<f4'", "(12, 4)", payload, "'yes'"))
    yield with_states("a header too long", BAD_HEADER, npy(header("'<f4'", "(12, 4)") + " " * 60_000, payload))
    yield with_states("a header that is not there", BAD_HEADER, npy("", payload, declared_length=60_000))
    yield with_states("a header of 4 GB", BAD_HEADER, npy(header("'<f4'", "(12, 4)"), payload, 2, declared_length=2**32 - 1))
    yield with_states("a nested header", BAD_HEADER, npy("(" * 1000, payload))
    yield with_states("a header that calculates", BAD_HEADER, npy("-" * 1000 + "1", payload))
    yield with_states("a header that calls", BAD_HEADER, npy(header("__import__('os').getcwd()", "(12, 4)"), payload))
    yield with_states("a header with a null", BAD_HEADER, npy("{'descr': '<f4'\0}", payload))
    yield with_states("a header with a key more", BAD_HEADER, npy("{'a': 1, " + header("'<f4'", "(12, 4)")[1:], payload))
    yield with_states("a header that is a list", BAD_HEADER, npy("['descr', 'fortran_order', 'shape']", payload))
    yield with_states("keys that can't be hashed", BAD_HEADER, npy("{[]: 1}", payload))
    yield with_states("a bad escape", BAD_HEADER, npy(r"{'\d': 1}", payload))
    yield with_states("a number that ends in a word", BAD_HEADER, npy("{1if 1else 2: 3}", payload))
    yield with_states("an unknown npy version", BAD_HEADER, npy(header("'<f4'", "(12, 4)"), payload, 9))
    yield with_states("no npy at all", BAD_HEADER, b"just words")
    yield with_states("an npy of no bytes", BAD_HEADER, b"")
    yield with_states("an unknown type", WRONG_DTYPE, array("'<f3'", "(12, 4)", payload))
    yield with_states("a type of no text", WRONG_DTYPE, array("17", "(12, 4)", payload))
    yield with_states("texts of no width", WRONG_DTYPE, array("'<U0'", "(12, 4)"))


def _archives(rng: np.random.Generator) -> Iterator[Hostile]:
    def changed(kind: str, reason: str, **more: Any) -> Hostile:
        states, *others = _members(rng)
        return Hostile(kind, reason, archive([Member(**(states.__dict__ | more)), *others]))

    states, *others = _members(rng)
    size = MAX_MEMORY_BYTES * 2
    head = array("'<f4'", f"({size // 4},)")
    bomb = Member(b"states.npy", b"", DEFLATED, declared_bytes=len(head) + size, crc=zeros_crc(head, size))
    packed = zeros_deflated(size, head)
    yield Hostile("a zip bomb", TOO_LARGE, archive([Member(**(bomb.__dict__ | {"packed": packed})), *others]))
    liar = {"packed": packed, "declared_bytes": len(states.content)}
    yield Hostile("a bomb that declares little", LYING, archive([Member(**(bomb.__dict__ | liar)), *others]))
    yield changed("a stream that declares too much", LYING, method=DEFLATED, declared_bytes=len(states.content) + 1)
    yield changed("stored sizes that differ", LYING, declared_bytes=10**9)
    yield changed("4 GB declared", LYING, declared_bytes=2**32 - 2)
    zip64 = struct.pack("<HHQ", 1, 8, 2**62)
    yield changed("exabytes declared", TOO_LARGE, method=DEFLATED, declared_bytes=2**32 - 1, extra=zip64)
    yield changed("a zip64 field cut short", LYING, declared_bytes=2**32 - 1, extra=struct.pack("<HHL", 1, 4, 7))
    yield changed("a broken stream", BAD_ZIP, method=DEFLATED, packed=b"\xff" + rng.bytes(300))
    yield changed("an empty stream", LYING, method=DEFLATED, packed=b"")
    yield changed("a stream cut short", LYING, method=DEFLATED, packed=deflated(states.content)[:-40])
    yield changed("a wrong checksum", "bad-checksum", crc=0x12345678)
    yield changed("an encrypted member", BAD_ZIP, flags=1)
    yield changed("an unknown method", BAD_ZIP, method=12)
    yield changed("two names for one member", BAD_ZIP, local_name=b"states.npx")
    yield changed("no local header", "not-a-zip", local_signature=b"PK\x03\x05")
    yield changed("no directory entry", BAD_ZIP, central_signature=b"PK\x01\x03")
    yield changed("a member outside the file", BAD_ZIP, offset=10**8)
    yield changed("a member beyond the end", "overlapping-members", packed_bytes=10**6, declared_bytes=10**6)
    yield changed("a path in a name", MISSING, name=b"../../states.npy")
    yield changed("an absolute path", MISSING, name=b"/etc/states.npy")
    yield changed("a name with a null", MISSING, name=b"states\0.npy")
    yield changed("a name of no ASCII", MISSING, name="stätes.npy".encode())
    yield changed("a name without end", MISSING, name=b"s" * 5000 + b".npy")
    yield changed("a member that is no array", MISSING, name=b"states.txt")
    yield Hostile("text files only", MISSING, archive([Member(b"readme.txt", b"hello")]))
    yield Hostile("an empty archive", MISSING, archive([]))
    yield Hostile("one name twice", BAD_ZIP, archive([states, states, *others]))
    yield Hostile("overlapping members", "overlapping-members", _overlapping(others[0], others[1:]))
    many = [Member(f"a{number}.npy".encode(), b"") for number in range(11_000)]
    yield Hostile("11,000 members", "too-many-members", archive([*_members(rng), *many]))
    yield Hostile("more members than there are", BAD_ZIP, archive(_members(rng), count=50))
    yield Hostile("fewer members than there are", BAD_ZIP, archive(_members(rng), count=2))
    yield Hostile("several disks", BAD_ZIP, archive(_members(rng), disk=3))
    yield Hostile("a gap after the directory", BAD_ZIP, archive(_members(rng), after_directory=b"gap"))
    zip64 = struct.pack("<4sQ2H2L4Q4sLQL", b"PK\6\6", 44, 45, 45, 0, 0, 3, 3, 150, 1, b"PK\6\7", 0, 1, 1)
    yield Hostile("a zip64 end", BAD_ZIP, archive(_members(rng), after_directory=zip64))
    yield Hostile("a directory elsewhere", BAD_ZIP, archive(_members(rng), directory_start=0))
    yield Hostile("an end inside the comment", BAD_ZIP, archive(_members(rng), comment=b"PK\x05\x06" + bytes(18) + b"x"))
    yield Hostile("a comment longer than it is", BAD_ZIP, archive(_members(rng), comment=b"abc", declared_comment=900))


def _overlapping(inner: Member, others: list[Member]) -> bytes:
    """An archive whose second member lies within the content of its first."""
    whole = archive([inner])[: 30 + len(inner.name) + len(inner.content)]
    content = array("'|u1'", f"({len(whole)},)", whole)
    outer = Member(b"states.npy", content)
    hidden = Member(inner.name, inner.content, offset=30 + len(outer.name) + len(content) - len(whole))
    return archive([outer, hidden, *others])


def _texts(rng: np.random.Generator) -> Iterator[Hostile]:
    def text(kind: str, reason: str, **more: Any) -> Hostile:
        return Hostile(kind, reason, _saved(rng, **{name: np.array(value) for name, value in more.items()}))

    yield text("an episode_id of 300 letters", TOO_LARGE, episode_id="x" * 300)
    yield text("several episode_ids", WRONG_DTYPE, episode_id=["a", "b"])
    yield text("a meta of plain words", BAD_META, meta="Victory")
    yield text("a meta that is a list", BAD_META, meta="[1, 2]")
    yield text("a meta nested 101 deep", BAD_META, meta='{"a":' * 101 + "1" + "}" * 101)
    yield Hostile("a meta of 10 million letters", TOO_LARGE, archive(_members(rng, meta=array("'<U10000000'", "()"))))
    yield text("a meta nested 45,000 deep", BAD_META, meta="[" * 45_000 + "]" * 45_000)
    yield text("a meta nested 100,000 deep", TOO_LARGE, meta='{"a":' * 100_000 + "1" + "}" * 100_000)
    yield text("a meta of 3 million letters", TOO_LARGE, meta='{"a": "' + "x" * 3_000_000 + '"}')
    yield text("a meta with a number of 90,000 digits", BAD_META, meta='{"a": ' + "9" * 90_000 + "}")
    yield text("a billion actions declared", BAD_META, meta='{"action_count": 1000000000}')
    yield text("fewer actions declared than done", OUT_OF_RANGE, meta='{"action_count": 1}', actions=[2] * STEPS)
    yield text("a truth value of actions declared", BAD_META, meta='{"action_count": true}')
    beyond = array("'<U2'", "()", b"\xff\xff\xff\xff\x00\x00\x11\x00")
    yield Hostile("letters beyond Unicode", WRONG_DTYPE, archive(_members(rng, episode_id=beyond)))
    yield Hostile("a text as large as the limit", TOO_LARGE, archive(_members(rng, meta=_wide_text())))


def _wide_text() -> bytes:
    letters = MAX_MEMORY_BYTES // 6
    return array(f"'<U{letters}'", "()", bytes(4 * letters))


def _names(rng: np.random.Generator) -> Iterator[Hostile]:
    """Files that are bad enough for any name, under names that are a trap of their own."""
    yield Hostile("a newline in the name", "not-a-zip", rng.bytes(9), "new\nline [OK] trained.npz")
    yield Hostile("a leading dash", "not-a-zip", rng.bytes(9), "--help.npz")
    yield Hostile("200 letters", "not-a-zip", rng.bytes(9), "n" * 200 + ".npz")
    yield Hostile("control codes", "not-a-zip", rng.bytes(9), "\x1b[31mred\x07.npz")
    yield Hostile("capital letters", "not-a-zip", rng.bytes(9), "LOUD.NPZ")
    yield Hostile("a device of Windows", "not-a-zip", rng.bytes(9), "con.npz")
    yield Hostile("text that runs backwards", "not-a-zip", rng.bytes(9), "\u202egpj.npz")
    if os.name == "posix":
        yield Hostile("bytes that are no UTF-8", "not-a-zip", rng.bytes(9), os.fsdecode(b"\xff\xfe.npz"))


def _special_files() -> list[Hostile]:
    def listen(path: Path) -> None:
        # By a short name relative to its folder: a socket's path may have 107 bytes only.
        former = os.open(".", os.O_RDONLY)
        os.chdir(path.parent)
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name)
        finally:
            os.fchdir(former)
            os.close(former)

    def full_folder(path: Path) -> None:
        path.mkdir()
        (path / "inside.npz").write_bytes(episodes.packed(1))

    return [
        Hostile("a folder", "", make=lambda path: path.mkdir()),
        Hostile("a folder with an episode", "", make=full_folder),
        Hostile("a dangling link", "", make=lambda path: path.symlink_to("nowhere.npz")),
        Hostile("a link to itself", "", make=lambda path: path.symlink_to(path.name)),
        Hostile("a link to a device", "", make=lambda path: path.symlink_to("/dev/zero")),
        Hostile("a link to a sound episode", "", make=lambda path: path.symlink_to(_outside(path))),
        Hostile("a named pipe", "", make=lambda path: os.mkfifo(path)),
        Hostile("a socket", "", make=listen),
    ]


def _outside(path: Path) -> Path:
    target = path.parent.parent / "somebody else's episode.npz"
    target.write_bytes(episodes.packed(2))
    return target


def large_episode(dtype: str, order: str, width: int, steps: int, *, three_axes: bool) -> bytes:
    """A sound episode whose reading takes much memory, deflated."""
    shape = (steps, 3, width // 3) if three_axes else (steps, width)
    states = np.ones(shape, dtype, order="F" if order == "F" else "C")
    file = io.BytesIO()
    np.savez_compressed(file, states=states, actions=np.zeros(steps, np.int8), rewards=np.zeros(steps))
    return file.getvalue()
