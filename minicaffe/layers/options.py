"""What a layer is told: the options in its definition, and what is set on it later, by the same rules."""

from __future__ import annotations

import copy
import difflib
import functools
import sys
from collections.abc import Collection, Mapping, MutableMapping, MutableSequence, MutableSet, Sequence
from numbers import Number
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from google.protobuf.message import Message

from minicaffe import proto
from minicaffe.backend import generation
from minicaffe.layers import interface
from minicaffe.layers.checks import Checked

VERBS = frozenset({"setup", "reshape", "forward", "backward"})
_IMMUTABLE = frozenset({bool, bytes, float, int, str, tuple, type(None)})
"""Types of most options: to ask of a value whether it is a sequence takes long."""
_LISTS = frozenset({"blobs", "param_propagate_down"})
"""Attributes that stay lists: nets look at them at every pass."""


class Configured(Checked):
    """Base of Layer: its options become attributes, and to set one later is as if the definition had said so.

    What a layer's own methods set is its own affair.  What anybody else sets on a layer of a net is checked, and
    counted in ``revision``: what follows from the attributes is then stale.
    """

    fixed: ClassVar[Collection[str] | None] = ()
    """Options that only ``setup`` reads, so that they cannot be set on a layer of a net; None: all.  A built-in class
    that defines ``setup`` and does not say so has all fixed."""
    phase_is_fixed: ClassVar[bool] = False
    """Whether ``setup`` reads the phase, too."""
    capturable: bool
    capturable_on_device: bool | None
    reshape_always: ClassVar[bool]
    user_defined: ClassVar[bool]
    param_propagate_down: list[bool]
    loss_weights: Sequence[float]

    _options: Mapping[str, tuple[str, Any]] = MappingProxyType({})
    """For the name of each option where it is in the definition: what comes before the name, and the message."""
    _revision: int = 0
    _in_net: bool = False

    def read_options(self) -> None:
        """Make attributes of the definition's options; those of the type's own field come before common ones."""
        options: dict[str, tuple[str, Any]] = {"phase": ("", self.layer_param)}
        for param in (*reversed(self.common_params), *([self.param] if self.param else [])):
            message = getattr(self.layer_param, param)
            for field in message.DESCRIPTOR.fields:
                taken = field.name == "name" or hasattr(interface.LayerKind.engine_layer, field.name)
                if not taken or param == "python_param":
                    options[field.name] = (f"{param}.", message)
        self._options = options
        for name, (_, message) in options.items():
            setattr(self, name, _read(message, name))

    def check_options(self) -> None:
        """Raise a LayerError unless the options make sense, whatever the bottoms are: run before ``setup``, and
        whenever one of them is set later.
        """

    def has(self, field: str) -> bool:
        """Whether the prototxt, or somebody later, sets ``field`` of this layer's options."""
        return self._message_with(field).HasField(field)

    def given(self, field: str, default: Any) -> Any:
        """The option ``field``, or ``default`` where nobody sets it."""
        return getattr(self._message_with(field), field) if self.has(field) else default

    def _message_with(self, field: str) -> Any:
        """The layer's own message if it has the field, or else a common one."""
        return getattr(self.layer_param, _param_with(field, self.param, *self.common_params))

    # --- what is set later ---------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """How often something was set on the layer, or on its class, by other than its own methods."""
        return self._revision + interface.LayerKind.changes

    def changed(self) -> None:
        """Note that what was derived from the layer no longer holds."""
        self.__dict__["_revision"] = self._revision + 1
        generation.advance()

    def enter_net(self) -> None:
        """From now on the layer is one of a net."""
        self.__dict__["_in_net"] = True

    @property
    def patched(self) -> bool:
        """Whether another function stands in the place of one of the layer's own, so that nobody knows what it does."""
        return not VERBS.isdisjoint(self.__dict__) or interface.is_patched(type(self))

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; ``blobs`` are replaced one by one.  LayerError for what makes no sense.

        In a capturable layer lists become tuples: to assign is then the only way to change what it computes from, so
        that no change goes unnoticed.  LayerError for other values that change in place, but for arrays, which kernels
        read anew.
        """
        if name == "blobs" and name in self.__dict__:
            self.blobs.replace(value)
            return
        outside = self._in_net and not _sets_itself(self)
        if outside and name in self._options:
            self.set_option(name, value)
            return
        if outside:
            value = self._checked(name, value)
        computes_from_it = name not in _LISTS and not name.startswith("_")
        if computes_from_it and (type(self).capturable or type(self).capturable_on_device):
            value = self._immutable(name, value)
            generation.advance()
        super().__setattr__(name, value)
        if outside and name not in _LISTS:
            self.changed()

    def __delattr__(self, name: str) -> None:
        """Take back what was set: an option has its default again, a method is the class's own."""
        if self._in_net and name in self._options:
            self.set_option(name, None)
            return
        if not (self.user_defined or name in VERBS or name.startswith("_")):
            raise self.error(f"its attribute '{name}' cannot be deleted")
        super().__delattr__(name)
        self.changed()

    def take_options(self, other: Configured) -> None:
        """Set the options that can be set, and are not as in another layer of the same type, as they are there."""
        settable = type(self) is type(other) and self.fixed is not None
        for name in self._options if settable else ():
            value = getattr(other, name)
            if name not in (self.fixed or ()) and value != getattr(self, name):
                self.set_option(name, value)
                self.changed()

    def set_option(self, name: str, value: Any) -> None:
        """Set an option in the definition, too; None gives it its default.  After an error all is as it was."""
        _, message = self._options[name]
        before, present = _read(message, name), _is_present(message, name)
        try:
            try:
                _write(message, name, value)
            except (TypeError, ValueError, OverflowError) as error:  # UnicodeError is a ValueError
                raise self.error(f"cannot be {value!r:.80}: {error}", name) from None
            self.__dict__[name] = _read(message, name)
            fixed = self.phase_is_fixed if name == "phase" else self.fixed is None or name in self.fixed
            # whether a message is there at all can mean something of itself
            same = _read(message, name) == before and (
                not isinstance(before, Message) or _is_present(message, name) == present
            )
            self.require(
                not fixed or same,
                "is read when the net is made and cannot be set afterwards; make a net of a definition that has it",
                name,
            )
            self.check_fork_fields()
            self.check_options()
        except BaseException:
            _write(message, name, before if present else None)
            self.__dict__[name] = before
            raise
        self.changed()

    def _checked(self, name: str, value: Any) -> Any:
        """What is no option, as it is to be set; LayerError if it cannot be."""
        if name in VERBS:
            self.require(callable(value), f"its {name} must be a function; found {value!r:.80}")
            self.__dict__["capturable"] = self.__dict__["capturable_on_device"] = False
            self.__dict__["reshape_always"] = self.reshape_always or name == "reshape"
        elif name == "param_propagate_down":
            value = [bool(flag) for flag in self._one_for_each(name, value, len(self.blobs), "blob")]
        elif name == "loss_weights":
            value = self._one_for_each(name, value, len(self.loss_weights), "top")
            same = [bool(weight) for weight in value] == [bool(weight) for weight in self.loss_weights]
            self.require(same, f"a weight of 0 stays 0, and others do not become 0; found {value}", name)
        elif not (self.user_defined or name.startswith("_") or self._has_setter(name)):
            options = sorted(self._options)
            near = difflib.get_close_matches(name, options, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; its options are {', '.join(options)}"
            raise self.error(f"its attribute '{name}' follows from its definition and cannot be set{hint}")
        return value

    def _one_for_each(self, name: str, values: Any, count: int, what: str) -> list:
        """``values`` as a list; LayerError unless they are ``count`` numbers."""
        wanted = f"must be a list of numbers, one for each {what} ({count})"
        self.require(isinstance(values, Sequence) and not isinstance(values, (str, bytes)), wanted, name)
        numbers = all(isinstance(value, (bool, int, float, np.bool_, np.number)) for value in values)
        self.require(numbers and len(values) == count, f"{wanted}; found {values!r:.80}", name)
        return list(values)

    def _has_setter(self, name: str) -> bool:
        found = getattr(type(self), name, None)
        return isinstance(found, property) and found.fset is not None

    def _immutable(self, name: str, value: Any) -> Any:
        if type(value) in _IMMUTABLE:
            return value
        if isinstance(value, MutableSequence):
            return tuple(value)
        if isinstance(value, (MutableMapping, MutableSet)):
            raise self.error(
                f"attribute {name!r} of a capturable layer must be immutable; found a {type(value).__name__}"
            )
        return value


@functools.cache
def _param_with(field: str, *params: str) -> str:
    """The first of some fields of a LayerParameter whose message has a ``field``."""
    messages = {param: proto.LayerParameter.DESCRIPTOR.fields_by_name[param].message_type for param in params if param}
    return next(param for param, message in messages.items() if field in message.fields_by_name)


def _sets_itself(layer: Configured) -> bool:
    """Whether a method of the layer's own sets the attribute: its first argument is the layer."""
    frame = sys._getframe(2)
    first = frame.f_code.co_varnames[:1]
    return bool(first) and frame.f_locals.get(first[0]) is layer


def _read(message: Any, name: str) -> Any:
    """The value of a field; of a repeated one a tuple, which cannot change unnoticed."""
    value = getattr(message, name)
    if type(value) not in _IMMUTABLE and isinstance(value, MutableSequence):
        return tuple(value)
    return copy.deepcopy(value) if isinstance(value, Message) else value


def _is_present(message: Any, name: str) -> bool:
    value = getattr(message, name)
    return bool(value) if isinstance(value, MutableSequence) else message.HasField(name)


def _write(message: Any, name: str, value: Any) -> None:
    """Set a field, None clearing it; TypeError, ValueError or OverflowError for a value that it cannot hold."""
    if isinstance(value, (np.generic, np.ndarray)) and not np.ndim(value):
        value = value.item()
    message.ClearField(name)
    if value is None:
        return
    held = getattr(message, name)
    if isinstance(held, MutableSequence):
        held.extend(value)
    elif isinstance(held, Message):
        held.CopyFrom(value)
    elif isinstance(value, (Number, str, bytes)):  # protobuf ends the process if a bool is set to a message
        setattr(message, name, value)
    else:
        raise TypeError(f"expected a number or a string, found a {type(value).__name__}")
