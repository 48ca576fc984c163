"""An object that stands in for a pipeline: attributes that it doesn't declare itself are the pipeline's, both ways."""

import functools
import inspect
from typing import Any

from shield.errors import UnknownAttributeError


class StandIn:
    """Reads, writes and deletes on its `pipe` whatever its own class doesn't declare.

    A name that the class declares, as a slot, a property or a method, is the object's own; the list is closed, so that
    a misspelt or unknown name is an error instead of an attribute that does nothing. A method of the pipeline that
    returns the pipeline returns the stand-in, so that `safe = safe.to("cuda")` keeps the shield on.
    """

    __slots__ = ()
    pipe: Any

    def __getattr__(self, name: str) -> Any:
        if self._declares(name):  # without a value yet, or its property raised: says so itself
            return object.__getattribute__(self, name)
        try:
            found = getattr(self.pipe, name)
        except AttributeError:
            if hasattr(type(self.pipe), name):  # a property of the pipeline that has no value yet
                raise
            raise self._unknown(name) from None
        return self._kept_on(found) if inspect.ismethod(found) and found.__self__ is self.pipe else found

    def __setattr__(self, name: str, value: Any) -> None:
        if self._declares(name):
            object.__setattr__(self, name, value)
        elif hasattr(self.pipe, name) or hasattr(type(self.pipe), name):
            setattr(self.pipe, name, value)
        else:
            raise self._unknown(name)

    def __delattr__(self, name: str) -> None:
        if self._declares(name):
            object.__delattr__(self, name)
        elif hasattr(self.pipe, name):
            delattr(self.pipe, name)
        else:
            raise self._unknown(name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *dir(self.pipe)})

    def _declares(self, name: str) -> bool:
        """Whether the name is the object's own; double underscores are Python's, never the pipeline's."""
        return hasattr(type(self), name) or name.startswith("__")

    def _kept_on(self, method: Any) -> Any:
        """The pipeline's method, which returns the stand-in where the method returns the pipeline."""

        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            returned = method(*args, **kwargs)
            return self if returned is self.pipe else returned

        return call

    def _unknown(self, name: str) -> UnknownAttributeError:
        kind, pipe = type(self).__name__, type(self.pipe).__name__
        return UnknownAttributeError(f"Neither {kind} nor the {pipe} it wraps (.pipe) has an attribute {name!r}.")
