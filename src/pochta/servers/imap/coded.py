"""A lawful "no" whose response code says more than its kind: which URL, how many messages."""

from pochta.errors import Refusal, RefusalCode


class CodedRefusal(Refusal):
    """`code_text` stands in the answer's brackets, in place of what `servers/refusal.py` has for the code."""

    def __init__(self, code: RefusalCode, text: str, code_text: bytes) -> None:
        super().__init__(code, text)
        self.code_text = code_text
