"""A sequential test on returns: have the games become worse than they may be? Pure, and valid whenever it is looked at."""

from __future__ import annotations

from dataclasses import dataclass

_BETS = (0.2, 0.5, 0.9)
_LARGEST_SHORTFALL = 3.0


@dataclass(frozen=True)
class Bound:
    """What returns are held against.

    needed: the mean that is still good enough.
    cap: a return above it counts as this much; above `needed`.
    """

    needed: float
    cap: float

    def shortfall(self, value: float) -> float:
        """By how much a return is too low, in units of cap - needed; in [-1, 3]."""
        return max(-1.0, min((self.needed - value) / (self.cap - self.needed), _LARGEST_SHORTFALL))


NO_EVIDENCE = (0.0,) * len(_BETS)


def more(evidence: tuple[float, ...], shortfall: float) -> tuple[float, ...]:
    """The evidence after one more return: a Shiryaev-Roberts sum for each of three bets.

    S_b[n] = (S_b[n-1] + 1) * (1 + b * shortfall[n]).

    While the returns, cut off at the cap, have a mean of `needed` or more whatever came before, the last factor has a mean of
    1 or less. So the mean of S[n] is at most n, and the chance that it ever reaches A within n episodes at most n / A;
    on average A episodes or more pass before a false alarm. No distribution is assumed, and no number of episodes
    fixed beforehand. Cutting a very low return off only makes the sum smaller.

    Source: Shin, Ramdas & Rinaldo 2023, "E-detectors", sections 3 and 4; Shiryaev 1963, Roberts 1966.
    """
    return tuple((total + 1.0) * (1.0 + bet * shortfall) for total, bet in zip(evidence, _BETS, strict=True))


def strength(evidence: tuple[float, ...]) -> float:
    """The mean over the bets: the same bounds hold for it."""
    return sum(evidence) / len(evidence)
