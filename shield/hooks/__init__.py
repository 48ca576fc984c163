"""The one place that touches a pipeline while it draws; whatever it changes is put back."""
