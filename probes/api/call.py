"""What every call has in common: the model, the run folder, how pictures are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL.Image import Image

from probes.audit.request import AuditRequest, Done
from probes.drawing.draw import Sampling
from probes.inputs.given import Prompts, prompt_file, run_folder
from probes.model.loading import subject_of
from probes.paths import as_path
from probes.report.summary import Summary
from probes.runs.table import Table
from probes.testbed.checkpoint import Checkpoint
from probes.types import Subject, UnitMask


@dataclass(frozen=True)
class Results:
    """What a verb with pictures found.

    Attributes:
        folder: The run folder.
        report: Its report.html.
        summary: Its figures, as probes/report/summary.py lists them.
        table: Its records, one row a picture.
    """

    folder: Path
    report: Path
    summary: Summary = field(repr=False)
    table: Table = field(repr=False)

    def images(self, **fields: Any) -> list[Image]:
        """Pictures of the table's rows with these values, for example images(stage="attacked", attack_steps=10).

        Args:
            **fields: Names and values of the table's columns.
        """
        return self.table.images(**fields)


@dataclass(frozen=True)
class Call:
    """One call of the library.

    Attributes:
        subject: The model.
        folder: The run folder.
        resume: Go on with the run in it.
        device: Where a named model is loaded to.
        steps: Denoising steps; None: the model's own.
        guidance_scale: None: the model's own.
    """

    subject: Subject
    folder: Path
    resume: bool
    device: str
    steps: int | None = None
    guidance_scale: float | None = None

    @classmethod
    def on(
        cls,
        model: Any,
        out: Path | str | None,
        device: str,
        resume: bool,
        steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> Call:
        """Loads the model and finds the folder. Raises RunError, WeightsError."""
        return cls(subject_of(model, device), run_folder(out, resume), resume, device, steps, guidance_scale)

    @property
    def checkpoint(self) -> Checkpoint:
        """What is known about the model."""
        return Checkpoint.of(self.subject.name, self.subject.pipe)

    @property
    def sampling(self) -> Sampling:
        """How pictures are drawn."""
        return Sampling(*self.checkpoint.sampling(self.steps, self.guidance_scale))

    @property
    def options(self) -> dict[str, Any]:
        """What every verb takes."""
        return {"resume": self.resume, "show_progress": False}

    def file(self, prompts: Prompts | None, name: str = "prompts") -> Path | None:
        """The prompts as a file."""
        return prompt_file(prompts, self.folder, name)

    def mask_file(self, mask: UnitMask | Path | str | None) -> Path | None:
        """The mask as a file."""
        if not isinstance(mask, UnitMask):
            return as_path(mask)
        file = self.folder / "given.safetensors"
        self.folder.mkdir(parents=True, exist_ok=True)
        mask.save(file)
        return file

    def request(
        self,
        works: Prompts | None,
        nonmembers: Prompts | None,
        benign: Prompts | None,
        twin: str | None,
        limit: int | None,
    ) -> AuditRequest:
        """The same with what is asked about."""
        return AuditRequest(
            self.subject.name,
            self.file(works),
            self.file(nonmembers, "nonmembers"),
            self.file(benign, "benign"),
            limit=limit,
            twin=twin,
            device=self.device,
            pipe=self.subject.pipe,
        )


def results_of(done: Done) -> Results:
    """What a verb wrote, with its table."""
    return Results(done.folder, done.report, done.summary, Table(done.folder))
