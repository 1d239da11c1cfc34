"""Files of data: scripts of one call, `scae_data("key", value)`, which a page from disk can load (`assets/data.js`).

Whatever text a value holds, it can neither end the script nor start a comment of HTML in it.
"""

import base64
import json
import zlib
from typing import Any

LEVEL = 6  # of zlib; 9 takes three times as long for one part in a hundred
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def dumps(value: Any) -> str:
    """JSON in as few characters as it takes; NaN and infinities, which JSON does not have, are an error."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def script(key: str, value: Any) -> str:
    """A file of data, as one reads it. `</script`, `<!--` and the two line ends that JSON allows and scripts once did
    not are escaped: in JSON these letters occur in strings alone."""
    text = f"{dumps(key)},{dumps(value)}"
    for letter, escape in ESCAPES.items():
        text = text.replace(letter, escape)
    return f"scae_data({text});\n"


def packed(key: str, value: Any) -> str:
    """The same for a large value: base64 of zlib of its JSON, about a third as long."""
    squeezed = zlib.compress(dumps(value).encode("utf-8", "surrogatepass"), LEVEL)
    return script(key, {"packed": base64.b64encode(squeezed).decode("ascii")})
