"""From a run folder to its page, without torch: figures, plots, contact sheets and wording."""
