"""The leaderboards: every entry of a table on the testbed, choices on dev, figures on heldout."""
