"""Write a list of words for rendered words, the most frequent first: python scripts/weights/get_words.py words.txt

The words are those of the wordfreq package (pip install wordfreq; its data is CC BY-SA 4.0), English ones with some of
other languages between them, since signs show both. RenderedWords(words="words.txt") reads them.
"""

import argparse
import re
import unicodedata
from pathlib import Path

# Every so many-th word is of one of these languages, in turn: all are written in Latin letters.
OTHERS = ("es", "fr", "de", "it", "pt", "nl", "id", "ms", "sv", "pl")
EVERY = 5
COUNT = 60_000  # words of a language


def plain(word: str) -> str:
    """``word`` without accents, or "" where it holds anything but letters, apostrophes and hyphens."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))
    return bare if re.fullmatch(r"[a-z]+(['-][a-z]+)*", bare) else ""


def mix(english: list[str], others: list[list[str]]) -> list[str]:
    """``english`` in its order; after every four of them comes the next one of the other lists, which take turns."""
    mixed = []
    rests = [iter(words) for words in others]
    for place, word in enumerate(english):
        mixed.append(word)
        if rests and place % (EVERY - 1) == EVERY - 2:
            mixed.append(next(rests[place // (EVERY - 1) % len(rests)], word))
    return list(dict.fromkeys(mixed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="text file to write")
    options = parser.parse_args()
    try:
        from wordfreq import top_n_list
    except ImportError:
        raise SystemExit("error: the words come from wordfreq: pip install wordfreq") from None
    lists = [[word for word in map(plain, top_n_list(name, COUNT)) if len(word) > 1] for name in ("en", *OTHERS)]
    words = mix(lists[0], lists[1:])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(words) + "\n", encoding="utf-8")
    print(f"wrote {len(words)} words to {options.out}")


if __name__ == "__main__":
    main()
