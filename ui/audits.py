"""One audit at a time, in a process of its own: `diffshield audit --quick`, watched through its run folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from probes.errors import AuditError, RunError
from probes.runs.folder import Run
from shield.model.loading import SHIPPED
from ui.folders import Folders, stages_of

PATIENCE = 30.0


def _interruptible() -> None:
    """A page in the background (nohup, &) ignores Ctrl-C and would hand that down; its audits must not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _model_of(run: Run) -> str:
    about = run.about.get("model")
    return str(about.get("name") if isinstance(about, dict) else about)


class Audits:
    """Starts, cancels and tells about the one audit that this page may run. `command` is what runs `diffshield`;
    `models` are those that may be audited, whatever a run folder names.
    """

    def __init__(
        self,
        folders: Folders,
        device: str = "auto",
        command: tuple[str, ...] = (sys.executable, "-m", "ui.verb"),
        models: Sequence[str] = tuple(SHIPPED),
    ) -> None:
        self.folders, self.device, self.command, self.models = folders, device, command, tuple(models)
        self.name: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._canceled = False
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def cancelable(self) -> bool:
        return self.running and not self._canceled

    def start(self, model: str) -> str:
        """Starts a quick audit of a model in a new run folder; returns its name. AuditError while another runs."""
        return self._started(f"audit-{datetime.now(UTC):%Y%m%d-%H%M%S}", ["--model", self._listed(model)])

    def resume(self, name: str) -> str:
        """Goes on with an audit that was stopped. Raises RunError, AuditError."""
        return self._started(name, ["--model", self._listed(_model_of(self._stopped(name))), "--resume"])

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
        if run.about.get("kind") != "audit" or not run.config.get("quick"):
            raise AuditError("Only quick audits can be continued here; use `diffshield audit --resume` for others.")
        if run.status == "complete":
            raise AuditError(f"{name} is complete; there is nothing to continue.")
        self._listed(_model_of(run))
        return run

    def _listed(self, model: str) -> str:
        if model not in self.models:
            raise AuditError(f"This page audits {', '.join(self.models)} alone, and not {model[:80]!r}.")
        return model

    def _started(self, name: str, options: list[str]) -> str:
        with self._lock:
            if self.running:
                raise AuditError(f"The audit {self.name} is running; wait for it or cancel it.")
            out = self.folders.path(name)
            out.parent.mkdir(parents=True, exist_ok=True)
            with open(self._log(name), "wb") as log:
                self._process = subprocess.Popen(
                    [*self.command, "audit", "--quick", "--out", str(out), "--device", self.device, *options],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=_interruptible if os.name == "posix" else None,
                )
            self.name, self._canceled = name, False
            return name

    def cancel(self) -> bool:
        """Asks the audit to stop as Ctrl-C does, which keeps everything that is done; False when none runs."""
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
        """One sentence about the audit that was started last, how many stages are done, and how many there are."""
        if self.name is None:
            return "No audit was started from this page yet.", 0, 1
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
        from probes.runs.stage_log import STAGES

        try:
            run = self.folders.opened(self.name or "")
            entries = {entry["stage"]: entry["status"] for entry in stages_of(run)}
        except RunError:
            return "loading the model …", 0, len(STAGES)
        left = [stage for stage in STAGES if entries.get(stage) not in ("complete", "skipped")]
        done, current = len(STAGES) - len(left), left[0] if left else "report"
        count = sum(record.get("stage") == current for record in self.folders.records(self.name or ""))
        place = f"stage {min(done + 1, len(STAGES))} of {len(STAGES)}, {current.replace('_', ' ')}"
        return place + (f", {count} records" if count else ""), done, len(STAGES)

    def _log(self, name: str) -> Path:
        return self.folders.root / f"{name.replace('/', '-')}.log"

    def _last_words(self) -> str:
        """The last line on stderr: a user's mistake is one sentence there."""
        text = self._log(self.name or "").read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1].removeprefix("diffshield: ") if lines else "it said nothing."
