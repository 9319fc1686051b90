"""Log lines shaped as Caffe's (glog): what scripts that read Caffe's logs expect."""

from __future__ import annotations

import logging
from datetime import datetime

_LETTER = {logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}


class GlogFormatter(logging.Formatter):
    """``I1122 22:20:01.123456 12345 base.py:123] message``: severity, month and day, time, process, source line."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created)
        letter = _LETTER.get(record.levelno, "I")
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return f"{letter}{when:%m%d %H:%M:%S.%f} {record.process:5d} {record.filename}:{record.lineno}] {text}"
