"""The one exception that the workbench's tools raise on purpose."""


class WorkbenchError(Exception):
    """Something a person can put right: ``what`` went wrong and ``hint``, what to do about it."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}. {self.hint}" if self.hint else f"{self.what}."
