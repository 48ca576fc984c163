"""The run folder on disk: its records, its stages, its tables and what everything cost."""
