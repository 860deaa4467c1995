"""What counts as a word wherever texts are counted or compared: in scripts without spaces, a character."""

import re
import unicodedata

# Scripts that are written without spaces between words, as ranges of a regular expression: those that Unicode's line
# breaking (UAX #14) takes for ideographic, or leaves to a dictionary, and Tibetan. Korean has spaces.
UNSPACED = ("\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf"  # Thai … Tai Tham
            "\u3005-\u3007\u303b\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"  # Kana, Han
            "\ua9e0-\ua9ff\uaa60-\uaadf\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff")
_MARKS = "".join(char for char in map(chr, range(0xe00, 0xaae0)) if unicodedata.category(char)[0] == "M"
                 and re.match(f"[{UNSPACED}]", char)) + "\u0300-\u036f\ufe00-\ufe0f\uff9e\uff9f\U000e0100-\U000e01ef"
CHARACTER = f"[{UNSPACED}][{_MARKS}]*"  # one of them, with the vowels, tones and variants that are set on it
_UNIT = re.compile(f"{CHARACTER}|[^\\s{UNSPACED}]+")


def units(text: str) -> list[str]:
    """Each character of a script without spaces, and every other run without white space, in order.

    >>> units("Don't panic! 我爱 ABC的")
    ["Don't", 'panic!', '我', '爱', 'ABC', '的']
    """
    return _UNIT.findall(text)
