"""The commands, one file each, as functions to call from Python."""
