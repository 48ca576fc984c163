"""One run at a time, in a process of its own: a quick audit or a scan, watched through its run folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from probes.errors import AuditError, RunError
from probes.report.wording import FLOW
from probes.runs.folder import Run
from shield.model.loading import SHIPPED
from ui.folders import Folders, stages_of
from ui.inputs import Inputs, count_prompts
from ui.remaining import ENDED, audit_seconds, in_words, scan_seconds

PATIENCE = 30.0  # seconds until a canceled run is killed
VERBS = {"audit": ("audit", "--quick"), "scan": ("scan",)}


def _interruptible() -> None:
    """A page in the background (nohup, &) ignores Ctrl-C and would hand that down; its runs must not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _model_of(run: Run) -> str:
    about = run.about.get("model")
    return str(about.get("name") if isinstance(about, dict) else about)


def place_of(entries: Sequence[Mapping[str, Any]]) -> tuple[int, str, int]:
    """How many of an audit's stages are done, which one runs, and how many there are."""
    ended = [place for place, stage in enumerate(FLOW) if _status(entries, stage) in ENDED]
    done = ended[-1] + 1 if ended else 0
    return done, [*FLOW, "report"][done], len(FLOW)


def _status(entries: Sequence[Mapping[str, Any]], stage: str) -> str | None:
    return next((entry["status"] for entry in entries if entry["stage"] == stage), None)


def _given(run: Run) -> list[Path]:
    return [Path(str(one.get("path"))) for one in run.about.get("inputs") or ()]


def _prompts(verb: str, file: Path) -> list[str]:
    """A prompt file as the verb takes it."""
    return ["--prompts", str(file.resolve())] if verb == "audit" else [str(file.resolve())]


def _limit(limit: int | None) -> list[str]:
    return [] if limit is None else ["--limit", str(limit)]


class Runner:
    """Starts, cancels and tells about the one run that this page may have going. `command` is what runs `diffshield`;
    `models` are those that may be run, whatever a run folder names.
    """

    def __init__(
        self,
        folders: Folders,
        device: str = "auto",
        command: tuple[str, ...] = (sys.executable, "-m", "ui.verb"),
        models: Sequence[str] = tuple(SHIPPED),
    ) -> None:
        self.folders, self.device, self.command, self.models = folders, device, command, tuple(models)
        self.inputs = Inputs(folders.root)
        self.name: str | None = None
        self.verb = "audit"
        self._process: subprocess.Popen[bytes] | None = None
        self._canceled = False
        self._total: int | None = None  # a scan's prompts
        self._first: tuple[float, int] | None = None  # when its first records were seen, and how many
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def cancelable(self) -> bool:
        return self.running and not self._canceled

    def begins(self, name: str) -> bool:
        """Whether this run is going on and has no folder yet: its model is being loaded."""
        return self.running and name == self.name and not (self.folders.path(name) / "run.json").exists()

    def start(self, verb: str, model: str, files: Sequence[Path] = (), limit: int | None = None) -> str:
        """Starts a run in a new folder; returns its name.

        Args:
            verb: "audit" or "scan".
            model: One of `models`.
            files: A visitor's own prompts and pictures; without any the works of a shipped model.
            limit: Prompts at most.

        Raises:
            AuditError: Another is running, or there are no prompts for this model.
            PromptFileError, GalleryError: The files can't be used.
        """
        from probes.testbed.checkpoint import Checkpoint

        options, total = ["--model", self._listed(model)], None
        if self.running:
            raise self._busy()
        if files:
            prompts, count = self.inputs.keep(files)
            total = min(count, limit or count)
            options += [*_prompts(verb, prompts), *_limit(limit)]
        elif Checkpoint.of(model).truth is None:
            raise AuditError(f"Nothing is known about what {model} was trained on: choose a file of prompts first.")
        return self._started(f"{verb}-{datetime.now(UTC):%Y%m%d-%H%M%S}", verb, options, total)

    def resume(self, name: str) -> str:
        """Goes on with a run that was stopped. Raises RunError, AuditError."""
        run = self._stopped(name)
        verb, given, limit = run.about["kind"], _given(run), run.config.get("limit")
        own = [*_prompts(verb, given[0]), *_limit(limit)] if given else []
        count = count_prompts(given[0]) if given else None
        total = None if count is None else min(count, limit or count)
        return self._started(name, verb, ["--model", self._listed(_model_of(run)), *own, "--resume"], total)

    def resumable(self, name: str) -> bool:
        """Whether `resume` would go on with it."""
        try:
            return not self.running and bool(self._stopped(name))
        except (AuditError, RunError):
            return False

    def _stopped(self, name: str) -> Run:
        if not name:
            raise AuditError("Open the run to continue first.")
        run = self.folders.opened(name)
        kind, own = run.about.get("kind"), all(self.inputs.holds(path) for path in _given(run))
        if kind not in VERBS or not own or (kind == "audit" and not run.config.get("quick")):
            raise AuditError("Only quick audits and scans of this page can be continued here; use --resume for others.")
        if run.status == "complete":
            raise AuditError(f"{name} is complete; there is nothing to continue.")
        self._listed(_model_of(run))
        return run

    def _listed(self, model: str) -> str:
        if model not in self.models:
            raise AuditError(f"This page runs {', '.join(self.models)} alone, and not {model[:80]!r}.")
        return model

    def _busy(self) -> AuditError:
        return AuditError(f"The {self.verb} {self.name} is running; wait for it or cancel it.")

    def _started(self, name: str, verb: str, options: list[str], total: int | None) -> str:
        with self._lock:
            if self.running:
                raise self._busy()
            out = self.folders.path(name)
            out.parent.mkdir(parents=True, exist_ok=True)
            with open(self._log(name), "wb") as log:
                self._process = subprocess.Popen(
                    [*self.command, *VERBS[verb], "--out", str(out), "--device", self.device, *options],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=_interruptible if os.name == "posix" else None,
                )
            self.name, self.verb, self._canceled = name, verb, False
            self._total, self._first = total, None
            return name

    def cancel(self) -> bool:
        """Asks the run to stop as Ctrl-C does, which keeps everything that is done; False when none runs."""
        with self._lock:
            if self._process is None or not self.running:
                return False
            self._canceled = True
            self._process.send_signal(signal.SIGINT)
            threading.Thread(target=self._ended, args=(self._process,), daemon=True).start()
            return True

    def close(self) -> None:
        """Cancels and waits: a page that ends leaves no process behind."""
        if self.cancel() and self._process is not None:
            self._ended(self._process)

    @staticmethod
    def _ended(process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def state(self) -> tuple[str, int, int]:
        """One sentence about the run that was started last, how far it is, and of how much."""
        if self.name is None:
            return "No run was started from this page yet.", 0, 1
        sentence, done, total = self._progress()
        code = None if self._process is None else self._process.poll()
        if code is None:
            return (f"{self.name} is stopping …" if self._canceled else f"{self.name}: {sentence}"), done, total
        if code == 0:
            return f"{self.name} is complete.", total, total
        if self._canceled:
            return f"{self.name} was canceled; what it had done is kept, and can be continued.", done, total
        return f"{self.name} ended with an error: {self._last_words()}", done, total

    def _progress(self) -> tuple[str, int, int]:
        try:
            run = self.folders.opened(self.name or "")
            records, entries = self.folders.records(self.name or ""), stages_of(run)
        except RunError:
            return "loading the model …", 0, 1
        if self.verb == "scan":
            return self._scan_progress(len(records), entries)
        done, current, total = place_of(entries)
        count = sum(record.get("stage") == current for record in records)
        place = f"stage {min(done + 1, total)} of {total}, {FLOW.get(current, current)}"
        left = in_words(audit_seconds(self.folders, run, entries, time.time()))
        return ", ".join(filter(None, [place, f"{count} records" if count else "", left])), done, total

    def _scan_progress(self, done: int, entries: Sequence[Mapping[str, Any]]) -> tuple[str, int, int]:
        if any(entry["stage"] == "scan" and entry["status"] == "complete" for entry in entries):
            return "weighing the words of what was flagged …", done, done
        if done and self._first is None:
            self._first = (time.time(), done)
        left = in_words(scan_seconds(self._first, done, self._total, time.time()))
        of = "" if self._total is None else f" of {self._total}"
        return ", ".join(filter(None, [f"{done}{of} prompts scored", left])), done, self._total or max(done, 1)

    def _log(self, name: str) -> Path:
        return self.folders.root / f"{name.replace('/', '-')}.log"

    def _last_words(self) -> str:
        """The last line on stderr: a user's mistake is one sentence there."""
        text = self._log(self.name or "").read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1].removeprefix("diffshield: ") if lines else "it said nothing."
