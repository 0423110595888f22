"""What a caller accepts (RFC 9110 section 12.5.1), as far as it names a media type itself."""

from __future__ import annotations

from collections.abc import Iterable


def named_quality(accept: Iterable[bytes], media_type: bytes) -> float:
    """The weight, 0 to 1, that `Accept` gives to a media type by its name; a wildcard names nothing, so it is 0.

    `accept`: the values of the field. `media_type` in lower case. A weight that is no number is 0.
    """
    best = 0.0
    for value in map(bytes.lower, accept):
        if media_type not in value:  # the usual case, and cheap
            continue
        for part in value.split(b","):
            name, *parameters = (piece.strip() for piece in part.split(b";"))
            if name == media_type:
                best = max(best, _weight(parameters))
    return best


def _weight(parameters: Iterable[bytes]) -> float:
    given = next((each[2:] for each in parameters if each.startswith(b"q=")), b"1")
    try:
        weight = float(given)
    except ValueError:
        return 0.0
    return weight if 0.0 <= weight <= 1.0 else 0.0
