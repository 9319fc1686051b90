"""How the processes of a group exchange arrays and values, and the group of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any


class Communicator(ABC):
    """A group of ``size`` processes, of which this is number ``rank``.

    Every process of the group calls the same methods in the same order, with arrays of the same size and dtype; a call
    returns once the others have made it, too.  Arrays are those of the current backend, in C order.
    """

    rank: int
    size: int

    @abstractmethod
    def start_sum(self, array: Any) -> Callable[[], None]:
        """Begin to put the sum of all processes' arrays into each; what is returned waits for it.

        Nobody may touch the array in between.
        """

    @abstractmethod
    def broadcast(self, array: Any) -> None:
        """Put the array of rank 0 into those of the others."""

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank; anything that can be pickled."""

    @abstractmethod
    def wait_for_all(self) -> None:
        """Return once all processes are here."""

    def sum(self, array: Any) -> None:
        """Put the sum of all processes' arrays into each."""
        self.start_sum(array)()

    def mean(self, array: Any) -> None:
        """Put the mean of all processes' arrays into each: the sum, times 1 / size."""
        self.sum(array)
        array *= 1 / self.size

    def of_first(self, value: Any) -> Any:
        """The value of rank 0."""
        return self.gather(value)[0]


class Alone(Communicator):
    """One process, which exchanges nothing."""

    rank, size = 0, 1

    def start_sum(self, array: Any) -> Callable[[], None]:
        return nothing

    def broadcast(self, array: Any) -> None:
        pass

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def wait_for_all(self) -> None:
        pass

    def mean(self, array: Any) -> None:
        pass


def nothing() -> None:
    """Waits for what is already done."""
