"""Processes that train one model together, started by MPI: each with its own share of the data, all with one model."""

from minicaffe.parallel.communicator import Alone, Communicator
from minicaffe.parallel.session import finish, group, is_launched, session, start

__all__ = ["Alone", "Communicator", "finish", "group", "is_launched", "session", "start"]
