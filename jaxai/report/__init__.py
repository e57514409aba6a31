"""The report of runs: the content of their folders as one HTML page that opens offline.

>>> from jaxai import report
>>> callable(report.write_report)
True
"""

from jaxai.report.page import write_report

__all__ = ["write_report"]
