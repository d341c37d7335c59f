"""The report of a run: its sentences, tables and pictures, from facts to a page. Pure, but for the drawing."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import util
from typing import Any

import numpy as np

from background_training import command_lines, html_page
from background_training.algo import intervals
from background_training.algo.intervals import Estimate, Stretch
from background_training.episodes.buffer import DELETED, DUPLICATE, REJECTED, STALE, TRAINED
from background_training.reports.run_facts import GameSample, RunFacts

MOST_STRETCHES = 40
MOST_NAMES = 12
_REASONS_SHOWN = 15
_LONGEST_TEXT = 160

STYLE = """
.facts { display: flex; flex-wrap: wrap; gap: .6em 2.2em; margin: 1.2em 0; padding: 0; list-style: none }
.facts b { display: block; font-size: 1.5em; font-weight: 600; line-height: 1.2 } .facts span { color: #666; font-size: 13px }
"""


@dataclass(frozen=True)
class Report:
    """The page, and its pictures by name, as they stand in it too."""

    page: str
    pictures: Mapping[str, bytes]


def write(facts: RunFacts, private: Sequence[str], now: float) -> Report:
    """Make the report.

    Args:
        private: words that are struck out wherever they stand.
        now: seconds since 1970.
    """
    return _Writer(facts, private).written(now)


class _Writer:
    def __init__(self, facts: RunFacts, private: Sequence[str]) -> None:
        self._facts = facts
        # As whole words: a user called "root" does not make a secret of every --root.
        whole = "|".join(rf"(?<![\w-]){re.escape(word)}(?!\w)" for word in private)
        self._private = re.compile(whole or r"(?!)")
        self._pictures: dict[str, bytes] = {}
        self._can_draw = util.find_spec("matplotlib") is not None
        sound = np.isfinite(facts.returns)
        self._returns, self._steps, self._versions = facts.returns[sound], facts.steps[sound], facts.versions[sound]

    def written(self, now: float) -> Report:
        parts = [
            f"<h1>{escape(self._title())}</h1>",
            f'<p class="small">{escape(self._subtitle(now))}</p>',
            self._at_a_glance(),
            *([] if self._can_draw else ['<p>Without pictures: matplotlib is not installed (the extra "games" brings it).</p>']),
            *self._learning(),
            *self._groups("By opponent", "opponent", lambda sample: sample.opponent),
            *self._groups("By map", "map", lambda sample: sample.map),
            *self._staleness(),
            *self._fates(),
            *self._model(),
            *self._machine(),
        ]
        return Report(html_page.page(self._title(), parts, STYLE), self._pictures)

    # What was played

    def _title(self) -> str:
        games = Counter(sample.game for sample in self._facts.samples if sample.game)
        names = [self._plain(name) for name, _ in games.most_common(2)]
        return f"Training report: {' and '.join(names)}" if names else "Training report"

    def _subtitle(self, now: float) -> str:
        moments = [sample.moment for sample in self._facts.samples]
        made = f"Made on {_day(now)} by Background Training."
        if not moments:
            return made
        first, last = min(moments), max(moments)
        played = f"Played on {_day(first)}." if _day(first) == _day(last) else f"Played from {_day(first)} to {_day(last)}."
        return f"{played} {made}"

    def _at_a_glance(self) -> str:
        facts = self._facts
        cells = [(f"{len(facts.returns):,}", "games trained on"), (f"{np.nansum(facts.steps):,.0f}", "steps")]
        cells += [(f"{facts.model_version:,}", "version of the model")] if facts.model_version else []
        if len(self._returns) > 1:
            first, last = intervals.first_and_last(self._returns)
            cells += [(_estimate(intervals.mean_of(first)), f"mean return, first {_games(len(first))}")]
            cells += [(_estimate(intervals.mean_of(last)), f"mean return, last {_games(len(last))}")]
        elif len(self._returns):
            cells += [(_number(self._returns[0]), "its return")]
        won = [sample.won for sample in facts.samples if sample.won is not None]
        cells += [(_share(intervals.share_of(sum(won), len(won))), f"won, of {_games(len(won))} looked at")] if won else []
        return '<ul class="facts">' + "".join(f"<li><b>{escape(a)}</b><span>{escape(b)}</span></li>" for a, b in cells) + "</ul>"

    # How the bot improved

    def _learning(self) -> list[str]:
        if not len(self._returns):
            return ["<h2>How the bot improved</h2><p>No game has been trained on yet.</p>"]
        parts = intervals.stretches(self._returns, MOST_STRETCHES)
        shown = ["<h2>How the bot improved</h2>"]
        says = f"Return of {_games(len(self._returns))}; each dot is one game, or one of evenly chosen ones"
        shown.append(self._picture("returns", says, lambda: _pictures().curve(self._returns, parts, self._versions, "return")))
        if len(self._returns) >= 20:
            first, last = intervals.first_and_last(self._returns)
            says = "Distribution of the returns of the first and of the last tenth of the games"
            shown.append(self._picture("distributions", says, lambda: _pictures().distributions(first, last)))
        lengths = intervals.stretches(self._steps, MOST_STRETCHES)
        says = "Length of each game in steps"
        shown.append("<h3>Length of the games</h3>")
        shown.append(self._picture("lengths", says, lambda: _pictures().curve(self._steps, lengths, self._versions, "steps")))
        shown.append("<h3>In numbers</h3>")
        rows = [
            (
                _numbers(part),
                f"{self._versions[part.last - 1]:,.0f}",
                _estimate(part.mean),
                f"{length.mean.value:,.1f}",
            )
            for part, length in zip(intervals.stretches(self._returns, 10), intervals.stretches(self._steps, 10), strict=True)
        ]
        shown.append(html_page.table(("games", "up to version", "mean return (95 %)", "mean steps"), rows, numbers=(1, 2, 3)))
        shown.append('<p class="small">Games are in the order in which they were trained on. While it learns, the bot explores: ')
        shown.append(
            f"played greedily it is usually better ({command_lines.command('evaluate')}). The bands are Student's intervals.</p>"
        )
        return shown

    def _groups(self, title: str, column: str, name_of: Callable[[GameSample], str]) -> list[str]:
        members: dict[str, list[GameSample]] = {}
        for sample in self._facts.samples:
            if name_of(sample):
                members.setdefault(name_of(sample), []).append(sample)
        if not members:
            return []
        largest = sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))[:MOST_NAMES]
        rows, won, earned = [], [], []
        for name, samples in largest:
            returns = np.array([self._facts.returns[sample.number - 1] for sample in samples])
            mean = intervals.mean_of(returns)
            decided = [sample.won for sample in samples if sample.won is not None]
            share = intervals.share_of(sum(decided), len(decided)) if decided else None
            rows.append((self._plain(name), f"{len(samples):,}", _share(share) if share else "unknown", _estimate(mean)))
            earned.append((self._plain(name, 40), mean))
            won += [(self._plain(name, 40), share)] if share else []
        shown = [f"<h2>{title}</h2>"]
        groups, what = (won, "share of games won") if won else (earned, "mean return")
        says = f"{what} for each {column}, with 95 % intervals"
        shown.append(self._picture(f"by_{column}", says, lambda: _pictures().comparison(groups, what, is_share=bool(won))))
        shown.append(html_page.table((column, "games", "won (95 %)", "mean return (95 %)"), rows, numbers=(1, 2, 3)))
        if len(members) > len(largest):
            shown.append(f'<p class="small">And {len(members) - len(largest):,} more.</p>')
        return [*shown, self._sampling()]

    def _staleness(self) -> list[str]:
        lags = np.array([sample.lag for sample in self._facts.samples if sample.lag is not None], np.float64)
        if not len(lags):
            return []
        words = f"Mean {lags.mean():.1f} versions, half of the games at most {np.median(lags):.0f}, the oldest {lags.max():.0f}."
        silent = len(self._facts.samples) - len(lags)
        words += f" {_games(silent)} do not record the version that played." if silent else ""
        picture = self._picture("staleness", "How old the policy was that played", lambda: _pictures().staleness(lags))
        return ["<h2>Staleness of the games</h2>", picture, f'<p class="small">{escape(words)}</p>', self._sampling()]

    def _sampling(self) -> str:
        seen, all_games = len(self._facts.samples), len(self._facts.returns)
        if seen == all_games:
            return ""
        return f'<p class="small">From {seen:,} of {all_games:,} games, evenly chosen among those still in the archive.</p>'

    # What was left out, and why

    def _fates(self) -> list[str]:
        facts = self._facts
        words = {
            TRAINED: "trained on, exactly once",
            STALE: "stale: older than the limit when read",
            DUPLICATE: "duplicates of files that were already processed",
            REJECTED: "rejected: unusable",
        }
        rows = [(fate, f"{facts.fates[fate]:,}", sentence) for fate, sentence in words.items()]
        rows.append(("waiting", f"{facts.waiting:,}", "in the buffer"))
        deleted = sum(count for fate, count in facts.fates.items() if fate.startswith(f"{DELETED} "))
        rows += [(DELETED, f"{deleted:,}", "of the above, deleted since to keep the archive small")] if deleted else []
        shown = ["<h2>What became of every episode</h2>", html_page.table(("fate", "episodes", ""), rows, numbers=(1,))]
        if facts.reasons:
            reasons = [(r.fate, r.kind, f"{r.count:,}", self._plain(r.example)) for r in facts.reasons[:_REASONS_SHOWN]]
            shown += [
                "<h3>Not trained, and why</h3>",
                html_page.table(("fate", "reason", "episodes", "the newest one"), reasons, numbers=(2,)),
            ]
        if len(facts.reasons) > _REASONS_SHOWN:
            shown.append(f'<p class="small">And {len(facts.reasons) - _REASONS_SHOWN} more reasons.</p>')
        shown += [self._fairness()] if len(facts.stale_steps) else []
        return shown

    def _fairness(self) -> str:
        """Whether long games come too late more often than short ones: they take longer to play."""
        trained, stale = self._facts.steps, self._facts.stale_steps
        long = float(np.nanquantile(np.concatenate([trained, stale]), 0.75, method="higher"))
        counts = [
            (int((trained >= long).sum()), int((stale >= long).sum())),
            (int((trained < long).sum()), int((stale < long).sum())),
        ]
        if not all(map(sum, counts)):  # all of them are equally long
            return ""
        shares = [_share(intervals.share_of(done, done + late)) for done, late in counts]
        words = f"Of the longest quarter of these games ({long:,.0f} steps or more), {shares[0]} were trained on; "
        return f"<h3>Long games and short ones</h3><p>{escape(words)}of the others, {escape(shares[1])}.</p>"

    # Model, machine, settings

    def _model(self) -> list[str]:
        facts, manifest = self._facts, self._facts.manifest
        if facts.model_trouble:
            return ["<h2>The model</h2>", f"<p>{escape(self._plain(facts.model_trouble))}</p>"]
        names = manifest.get("action_names")
        actions = ", ".join(self._plain(name, 30) for name in names[:20]) if isinstance(names, list) else ""
        rows = [
            ("Version", f"{facts.model_version:,}"),
            ("Batches trained", self._plain(manifest.get("batches_trained", "unknown"))),
        ]
        rows += [("States", f"{self._plain(manifest.get('state_width', '?'))} numbers")]
        known = manifest.get("action_count", manifest.get("action_space", "?"))
        rows += [("Actions", f"{self._plain(known)}{f' ({actions})' if actions else ''}")]
        rows += [("Hidden layers", f"{self._plain(manifest.get('hidden', '?'))}, {self._plain(manifest.get('activation', '?'))}")]
        batch = manifest.get("last_batch")
        for key, title in (("entropy", "entropy"), ("explained_variance", "explained variance"), ("kl", "KL divergence")):
            if isinstance(batch, Mapping) and isinstance(batch.get(key), (int, float)):
                rows.append((f"Last batch, {title}", f"{batch[key]:.4g}"))
        return ["<h2>The model</h2>", html_page.table((), rows)]

    def _machine(self) -> list[str]:
        shown = ["<h2>Machine and settings</h2>", html_page.table((), self._facts.machine)]
        shown.append("<h3>Settings that differ from the defaults</h3>")
        rows = [(key, self._plain(value), self._plain(usual)) for key, value, usual in self._facts.settings]
        shown.append(html_page.table(("setting", "value", "default"), rows) if rows else "<p>None.</p>")
        return shown

    def _picture(self, name: str, says: str, draw: Callable[[], bytes]) -> str:
        if not self._can_draw:
            return ""
        self._pictures[name] = draw()
        return html_page.picture(self._pictures[name], says)

    def _plain(self, text: object, longest: int = _LONGEST_TEXT) -> str:
        """A foreign text on one line, without what is private, and without signs that don't print."""
        plain = self._private.sub("...", str(text))
        plain = "".join(sign if sign.isprintable() else " " for sign in plain)
        return plain if len(plain) <= longest else plain[: longest - 3] + "..."


def _pictures() -> Any:
    # Only now: it loads matplotlib, which is optional and takes a second.
    from background_training.reports import pictures

    return pictures


def _estimate(estimate: Estimate) -> str:
    half = (estimate.high - estimate.low) / 2
    return f"{_number(estimate.value)} ± {_number(half)}" if estimate.games > 1 else _number(estimate.value)


def _number(value: float) -> str:
    """With a decimal or two where the number is small."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _numbers(part: Stretch) -> str:
    return f"{part.first:,}-{part.last:,}" if part.last > part.first else f"{part.first:,}"


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})"


def _games(count: int) -> str:
    return "1 game" if count == 1 else f"{count:,} games"


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(moment))
