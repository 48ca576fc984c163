"""Where thresholds that this machine made are kept, so that each is made once, also by processes that start together.

    HOME/thresholds/CHECKPOINT/SETTING/*.json      one folder for each entry, as `load_thresholds` reads it
    HOME/thresholds/CHECKPOINT/SETTING.lock        held by the process that is making the entry

HOME is the user's data folder (shield/home.py).
CHECKPOINT and SETTING are digests of what the caller names them by; the store doesn't look into either. An entry
appears whole or not at all. A process that dies while it makes one leaves the lock to the next.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from filelock import FileLock, Timeout

from shield.errors import BadRequestError, WeightsError, reason_of
from shield.home import ENVIRONMENT, home
from shield.thresholds import Threshold, load_thresholds, save_threshold

DIGITS = 16


def default_folder() -> Path:
    """The folder of the thresholds in it."""
    return home() / "thresholds"


@dataclass(frozen=True)
class Store:
    """Thresholds by checkpoint and setting, in files under `folder`."""

    folder: Path = field(default_factory=default_folder)

    def entry(self, checkpoint: str, setting: Any) -> Path:
        """The folder of one entry; it needn't exist.

        Args:
            checkpoint: Any text that tells checkpoints apart, such as a fingerprint.
            setting: What the thresholds hold for: texts, numbers, None, dataclasses, and lists and mappings of these.

        Raises:
            BadRequestError: The setting holds something else.
        """
        return self.folder / digest(checkpoint) / digest(setting)

    def kept(self, checkpoint: str, setting: Any) -> list[Threshold]:
        """The thresholds of one entry; none where there is none, or where it can't be read (a warning says so)."""
        return _read(self.entry(checkpoint, setting))

    def of_checkpoint(self, checkpoint: str) -> list[Threshold]:
        """The thresholds of all of a checkpoint's entries, the newest entry's first."""
        folder = self.folder / digest(checkpoint)
        entries = [path for path in _listed(folder) if len(path.name) == DIGITS and path.is_dir()]
        newest_first = sorted(entries, key=lambda path: (-path.stat().st_mtime_ns, path.name))
        return [threshold for path in newest_first for threshold in _read(path)]

    def before(self, checkpoint: str, shipped: Iterable[Threshold]) -> list[Threshold]:
        """This machine's thresholds for a checkpoint, then the shipped ones: who looks for one takes the first."""
        return [*self.of_checkpoint(checkpoint), *shipped]

    def keep(self, checkpoint: str, setting: Any, thresholds: Sequence[Threshold]) -> Path:
        """Writes an entry, or writes it anew, and returns its folder. Raises OSError where it can't be written."""
        entry = self.entry(checkpoint, setting)
        entry.parent.mkdir(parents=True, exist_ok=True)
        part = Path(mkdtemp(prefix=f"{entry.name}.", suffix=".part", dir=entry.parent))
        try:
            for threshold in thresholds:
                save_threshold(threshold, part)
            shutil.rmtree(entry, ignore_errors=True)
            part.rename(entry)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return entry

    def made_once(
        self,
        checkpoint: str,
        setting: Any,
        make: Callable[[], Sequence[Threshold]],
        on_wait: Callable[[], None] | None = None,
    ) -> list[Threshold]:
        """The thresholds of an entry; where there is none, those that `make` returns, which are kept.

        Of several processes and threads that ask for one entry at once, one makes it and the others wait for it.

        Args:
            checkpoint: As for `entry`.
            setting: As for `entry`.
            make: Makes the thresholds. What it raises ends the call; the next process in line makes them then.
            on_wait: Called once if another process is at it already.

        Raises:
            BadRequestError: As `entry`.
        """
        found = self.kept(checkpoint, setting)
        if found:
            return found
        with _locked(self.entry(checkpoint, setting), on_wait) as is_held:
            found = self.kept(checkpoint, setting) if is_held else []
            return found or self._made(checkpoint, setting, make)

    def _made(self, checkpoint: str, setting: Any, make: Callable[[], Sequence[Threshold]]) -> list[Threshold]:
        made = list(make())
        try:
            self.keep(checkpoint, setting, made)
        except OSError as error:
            _say_unkept(self.folder, error)
        return made


def digest(named: Any) -> str:
    """16 hexadecimal digits of a text, number, None, dataclass, or lists and mappings of these; equal for equal ones.

    Raises:
        BadRequestError: It holds something else, which has no lasting name.
    """
    text = json.dumps(named, sort_keys=True, default=_plain)
    return sha256(text.encode()).hexdigest()[:DIGITS]


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {"": type(value).__name__, **asdict(value)}
    if isinstance(value, frozenset | set):
        return sorted(value)
    raise BadRequestError(
        f"A setting is told by texts, numbers and dataclasses; a {type(value).__name__} was given, which no file keeps."
    )


@contextmanager
def _locked(entry: Path, on_wait: Callable[[], None] | None) -> Iterator[bool]:
    """Holds the entry's lock within the block. False where this file system can't lock or be written to."""
    lock = FileLock(entry.with_suffix(".lock"))
    try:
        yield _acquired(lock, entry, on_wait)
    finally:
        lock.release()


def _acquired(lock: FileLock, entry: Path, on_wait: Callable[[], None] | None) -> bool:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if on_wait is not None:
                on_wait()
            lock.acquire()
    except (OSError, NotImplementedError):
        return False
    _remove_leftovers(entry)
    return True


def _remove_leftovers(entry: Path) -> None:
    """What processes that were killed had begun to write."""
    for path in entry.parent.glob(f"{entry.name}.*.part"):
        shutil.rmtree(path, ignore_errors=True)


def _read(entry: Path) -> list[Threshold]:
    try:
        return load_thresholds(entry)
    except WeightsError as error:
        warnings.warn(f"Thresholds in {entry} are left out: {error}", stacklevel=3)
        return []


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _say_unkept(folder: Path, error: OSError) -> None:
    warnings.warn(
        f"Thresholds can't be kept in {folder} ({reason_of(error)}), so they hold for this process only; set "
        f"{ENVIRONMENT} to a folder that can be written to.",
        stacklevel=4,
    )
