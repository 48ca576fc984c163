"""`diffshield merge`: the shards of one scan as the run folder that one process would have written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from probes.errors import RunChoiceError
from probes.inputs.cohorts import Cohorts, Sizes, cohorts_of_manifest
from probes.paths import takes_paths
from probes.runs.folder import Run
from probes.runs.stage_log import Stages
from probes.runs.table import refuse_without_pyarrow, write_results
from probes.scan.scan import Scanned, summarized
from probes.scan.shards import merge_stages, merged_records, opened
from probes.testbed.checkpoint import Checkpoint


@takes_paths
def merge(folders: Sequence[Path], out: Path) -> Scanned:
    """Merge all shards of a scan into ``out``. ShardError if they don't belong together, RunError for damaged ones."""
    refuse_without_pyarrow()
    if (out / "run.json").exists():
        raise RunChoiceError(f"There is a run in {out} already. Choose another --out; shards are merged in one go.")
    runs = opened(folders)
    first = runs[0]
    manifest = None if first.about["inputs"] else Checkpoint.of(first.config["model"]).truth
    cohorts = cohorts_of_manifest(manifest, Sizes()) if manifest else Cohorts()
    with Run.create(
        out,
        {**first.config, "shard": None},
        kind="scan",
        passed=[str(folder) for folder in folders],
        model=first.about["model"],
        seeds=first.about["seeds"],
        inputs=first.about["inputs"],
    ) as run:
        for record in merged_records(runs):
            run.append(record)
        merge_stages(runs, out)
        summary = summarized(run, Stages(out), cohorts)
        table = write_results(run)
        run.finish("complete")
    return Scanned(out, table, summary)
