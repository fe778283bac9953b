"""What others wrote, as a terminal or a line of the log may show it."""


def printable(text: str) -> str:
    """Escape what a terminal would obey instead of showing it, but for tabs and the ends of lines."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text)


def one_line(error: BaseException) -> str:
    return printable(" ".join(str(error).split()) or type(error).__name__)
