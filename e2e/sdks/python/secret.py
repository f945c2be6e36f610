"""The texts that stand for user data."""

_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
_PRIME = 16777619


def secret(queue: str, place: str) -> str:
    """The text that stands for user data at a place.

    It follows from the task queue's name and the place alone, so that workflows can make it anew at each replay, and
    whoever searches for it needs not be told.
    """
    state = 2166136261
    for byte in f"{queue}/{place}".encode():
        state = (state ^ byte) * _PRIME & 0xFFFFFFFF
    text = ""
    for i in range(32):
        state = (state ^ i) * _PRIME & 0xFFFFFFFF
        text += _LETTERS[(state >> 16) % len(_LETTERS)]
    return text
