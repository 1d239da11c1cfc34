"""How the log of a command looks on the console; `conf/hydra/job_logging` names it."""

import logging


class ConsoleFormatter(logging.Formatter):
    """`[12:01:33] message`, and the level only where it is worse than INFO."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname}: " if record.levelno > logging.INFO else ""
        return f"[{self.formatTime(record, '%H:%M:%S')}] {level}{record.message}"
