"""What one look at the waiting files led to: taken, set aside, left alone, trained; and how long each stage took."""

from __future__ import annotations

from dataclasses import dataclass, field

from background_training.episodes.episode import Episode
from background_training.learner.checkpoint import Generation
from background_training.learner.triage import Accepted, AlreadyTrained, Growing, SetAside


@dataclass
class Round:
    """What one look at the snapshot of the buffer led to."""

    accepted: list[Accepted] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    returned: list[AlreadyTrained] = field(default_factory=list)
    left_alone: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    growing: Growing | None = None
    """What the model has to get before the next file can be trained on."""
    notices: list[str] = field(default_factory=list)
    """What else was done, a sentence each."""
    trained: Generation | None = None
    seconds: float = 0.0
    """Until the commit, without the time in which the worker gave way."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """The same for each stage, as far as the round came: load, train, commit; and archive, which follows them."""

    @property
    def did_something(self) -> bool:
        return bool(self.accepted or self.set_aside or self.returned)

    @property
    def episodes(self) -> list[Episode]:
        """Those that were trained on."""
        return [item.episode for item in self.accepted] if self.trained is not None else []
